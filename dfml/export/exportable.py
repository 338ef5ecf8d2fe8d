"""The exported part of a model: its full path, and a description of its input and output.

B images, D numbers per embedding, C classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dfml.data.streaming.transforms import evaluation_sizes
from dfml.embedding_model import EmbeddingModel

INPUT = "images"


class Exportable(nn.Module):
    """Map normalized images (B, 3, H, W) to embeddings (B, D) of length 1 or probabilities (B, C).

    Uses the full path: shapes in the routed path depend on the data, which an exported graph can't
    express.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model
        self.output = "embeddings" if model.classifier is None else "probabilities"

    def forward(self, images: Tensor) -> Tensor:
        if self.model.classifier is None:
            return self.model(images, "full")
        return F.softmax(self.model.logits(images, "full"), dim=-1)


def description(exportable: Exportable, sha256: str) -> dict[str, Any]:
    """Return the description of the file's input and output, as JSON values to store in it.

    Args:
        exportable: the exported module.
        sha256: the SHA-256 of the model's weights.
    """
    model = exportable.model
    resize, crop = evaluation_sizes(model.recipe)
    said: dict[str, Any] = {
        "input": {"name": INPUT, "type": "float32", "shape": ["batch", 3, crop, crop], "channels": "RGB"},
        "preprocessing": {
            "resize_shorter_side": resize,
            "interpolation": "bilinear, antialiased",
            "center_crop": crop,
            "divide_by": 255,
            "mean": list(model.normalization.mean),
            "std": list(model.normalization.std),
        },
        "output": {"name": exportable.output, "type": "float32"},
        "path": "full",
        "model_sha256": sha256,
    }
    if model.classifier is None:
        said["output"] |= {"shape": ["batch", model.embedding_size], "normalized": "L2"}
    else:
        said["output"] |= {"shape": ["batch", len(model.class_names)], "class_names": list(model.class_names)}
    return said
