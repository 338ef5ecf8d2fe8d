"""Evaluation: `scoring` embeds a set of images over all ranks and scores it."""

from dfml.evaluate.scoring import Embedder, embed, full_score, score

__all__ = ["Embedder", "embed", "full_score", "score"]
