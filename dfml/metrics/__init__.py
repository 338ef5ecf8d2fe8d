"""Metrics on embeddings: `retrieval` (R@K, R-precision, MAP@R) and `clustering` (NMI, F1).

Retrieval is scored within a set, or with queries against a gallery.
"""

from dfml.metrics.clustering import clustering_metrics
from dfml.metrics.retrieval import nearest, rank_of_first_match, retrieval_metrics

__all__ = ["clustering_metrics", "nearest", "rank_of_first_match", "retrieval_metrics"]
