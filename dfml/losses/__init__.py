"""Metric losses on L2-normalized embeddings and labels 0 … C-1, by their names in a recipe.

`published` has the names and constants, `proxy_anchor` our own loss, `library` the losses of
pytorch-metric-learning, and `build` creates the loss of a recipe.
"""

from dfml.losses.constants import CONSTANTS, LossName, MetricLossName, loss_name

__all__ = ["CONSTANTS", "LossName", "MetricLossName", "loss_name"]
