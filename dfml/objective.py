"""The training objective of DFML (the publication's equation for the full loss; DESIGN §2).

    L = L_m(e_full) + w [ L_m(e_routed) + a Σ_images ‖e_routed − sg e_full‖₂ + b/L Σ_blocks Σ_tokens (‖x̂_attn − sg x_attn‖₂ + ‖x̂_mlp − sg x_mlp‖₂) ]

with w = ½, a = 0.1, b = 1e-5, e the L2-normalised embeddings, sg stop gradient, L_m the metric loss.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dfml.distributed import gather, world_size
from dfml.embedding_model import EmbeddingModel
from dfml.losses import build_loss


class Objective(nn.Module):
    """Model and loss as one module, so that DistributedDataParallel synchronises proxies and routers with the rest.

    The loss is that of the *global* batch: embeddings and labels are gathered over the ranks.
    """

    def __init__(self, model: EmbeddingModel, classes: int) -> None:
        super().__init__()
        self.model = model
        self.metric_loss = build_loss(model.recipe, classes, model.embedding_size)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """images (B, 3, H, W) and labels (B,) of this rank to the loss, under "loss", and its terms, for the log."""
        recipe = self.model.recipe
        features = self.model.both_paths(images)
        e_full, e_routed = F.normalize(features.full, dim=-1), F.normalize(features.routed, dim=-1)  # (B, D)
        all_labels = gather(labels)
        full = self.metric_loss(gather(e_full), all_labels)
        routed = self.metric_loss(gather(e_routed), all_labels)
        # Sums over this rank's images; times world_size, because DistributedDataParallel takes the mean over ranks.
        embedding = (e_routed - e_full.detach()).norm(dim=-1).sum() * world_size()
        stream = features.distance * world_size()
        loss = full + recipe.routed_weight * (
            routed + recipe.embedding_reconstruction * embedding + recipe.stream_reconstruction * stream
        )
        terms = {
            "loss": loss,
            "loss_full": full,
            "loss_routed": routed,
            "reconstruction_embedding": embedding,
            "reconstruction_stream": stream,
        }
        return terms

    def set_warm_up(self, warm: bool) -> None:
        """In warm-up only the loss's parameters (proxies) and the routers train."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not warm or not name.startswith("model.") or is_router(name))


def is_router(parameter_name: str) -> bool:
    return "router." in parameter_name
