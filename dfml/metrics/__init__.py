"""Metrics on embeddings: `retrieval` (R@K, R-precision, MAP@R, within a set or query against gallery), `clustering` (NMI, F1)."""

from dfml.metrics.clustering import clustering_metrics
from dfml.metrics.retrieval import nearest, places_of_first_right, retrieval_metrics

__all__ = ["clustering_metrics", "nearest", "places_of_first_right", "retrieval_metrics"]
