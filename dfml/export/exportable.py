"""What is exported of a model: its full path, from pixels to embeddings or probabilities, and a description of what goes in and comes out.

B images, D width of an embedding, C classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dfml.data.transforms import evaluation_sizes
from dfml.embedding_model import EmbeddingModel

INPUT = "images"


class Exportable(nn.Module):
    """Transformed images (B, 3, H, W) to L2-normalised embeddings (B, D), or to a classifier's probabilities (B, C).

    Through the full path: which tokens go through which sub-block of the routed one depends on the data, so that the shapes in it do, and
    a graph has none for them.
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
    """All that one has to know to use the exported file, as JSON values; it stands in the file itself.

    Args:
        sha256: of the model's weights.
    """
    model = exportable.model
    resize, crop = evaluation_sizes(model.recipe)
    said: dict[str, Any] = {
        "input": {"name": INPUT, "type": "float32", "shape": ["batch", 3, crop, crop], "channels": "RGB"},
        "preprocessing": {
            "resize_shorter_side": resize,
            "interpolation": "bilinear, antialiased",
            "centre_crop": crop,
            "divide_by": 255,
            "mean": list(model.normalisation.mean),
            "std": list(model.normalisation.std),
        },
        "output": {"name": exportable.output, "type": "float32"},
        "path": "full",
        "model_sha256": sha256,
    }
    if model.classifier is None:
        said["output"] |= {"shape": ["batch", model.embedding_size], "normalised": "L2"}
    else:
        said["output"] |= {"shape": ["batch", len(model.class_names)], "class_names": list(model.class_names)}
    return said
