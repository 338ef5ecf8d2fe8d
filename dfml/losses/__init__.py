"""Metric losses on L2-normalised embeddings and labels 0 … C-1, by the name a recipe gives.

`published` has names and constants, `proxy_anchor` our own loss, `library` those of pytorch-metric-learning, `build` makes one.
"""

from dfml.losses.published import CONSTANTS, LossName, MetricLossName, loss_name

__all__ = ["CONSTANTS", "LossName", "MetricLossName", "loss_name"]
