"""Evaluation: `scoring` embeds a set of images over all ranks and scores it."""

from dfml.evaluate.scoring import Embedded, Embedder, embed, embed_set, full_score, score

__all__ = ["Embedded", "Embedder", "embed", "embed_set", "full_score", "score"]
