"""Retrieval metrics on embeddings: each image is a query, all others are the gallery."""

from dfml.metrics.retrieval import nearest, retrieval_metrics

__all__ = ["nearest", "retrieval_metrics"]
