"""The training objective of DFML: the full loss of Wang et al., CVPR 2023 (docs/method.md).

    L_m(e_full) + w [ L_m(e_routed) + a Σ_images ‖e_routed − sg e_full‖₂
                      + b/L Σ_blocks Σ_tokens (‖x̂_attn − sg x_attn‖₂ + ‖x̂_mlp − sg x_mlp‖₂) ]

with w = ½, a = 0.1, b = 1e-5, e the L2-normalized embeddings, sg the stop gradient, L the number of
blocks, and L_m the metric loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dfml.distributed import gather, sum_over_ranks, world_size
from dfml.embedding_model import EmbeddingModel
from dfml.factorized import BothPaths, RoutingSums, at_least_float32
from dfml.losses.build import build_loss
from dfml.precision import autocast, tf32

T = TypeVar("T")


class Objective(nn.Module):
    """Model and loss in one module, so that DistributedDataParallel synchronizes all parameters.

    The loss is that of the *global* batch: embeddings and labels are gathered over the ranks.

    Attributes:
        routing: the sums over the last batch's tokens on this rank; None: there is no routed path.
    """

    def __init__(self, model: EmbeddingModel, classes: int) -> None:
        super().__init__()
        self.model = model
        self.metric_loss = build_loss(model.recipe, classes, model.embedding_size)
        self.routing: RoutingSums | None = None

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss, under "loss", and its terms, for the log.

        Args:
            images: the images (B, 3, H, W) of this rank, its share of the recipe's batch.
            labels: the labels (B,) of this rank.
        """
        recipe = self.model.recipe
        all_labels = self._gathered(labels)
        # Plain metric learning: the routed path isn't computed.
        if recipe.routed_weight == 0:
            features = at_least_float32(torch.cat(self._in_parts(self.model.features, images)))
            loss = self._loss(features, all_labels)
            return {"loss": loss, "loss_full": loss}
        both = BothPaths.of(self._in_parts(self.model.both_paths, images))
        e_full, e_routed = F.normalize(both.full, dim=-1), F.normalize(both.routed, dim=-1)  # (B, D)
        full, routed = self._loss(both.full, all_labels), self._loss(both.routed, all_labels)
        # Sums over this rank's images, times world_size, as DistributedDataParallel takes the mean.
        embedding = (e_routed - e_full.detach()).norm(dim=-1).sum() * world_size()
        stream = both.distance * world_size()
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
        if recipe.balance_weight > 0:
            terms["load_balance"] = load_balance(both.routing)
            terms["loss"] = loss + recipe.balance_weight * terms["load_balance"]
        self.routing = RoutingSums(*(sums.detach() for sums in both.routing))
        return terms

    @tf32(allowed=False)
    def _loss(self, features: Tensor, all_labels: Tensor) -> Tensor:
        loss: Tensor = self.metric_loss(self._gathered(self._compared(features)), all_labels)
        return loss

    def _gathered(self, share: Tensor) -> Tensor:
        return gather(share, self.model.recipe.batch_size)

    def _compared(self, features: Tensor) -> Tensor:
        """Return the input of the metric loss: normalized embeddings, or a classifier's logits."""
        return F.normalize(features, dim=-1) if self.model.classifier is None else self.model.classifier(features)

    def _in_parts(self, function: Callable[[Tensor], T], images: Tensor) -> list[T]:
        """Apply `function` to parts of the batch in turn, with the activations of one in memory.

        The forward pass of a part is repeated in the backward pass. Unlike adding up the gradients
        of each part's loss, this is exact for losses that compare all images of a batch (Gao et
        al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021).
        """
        recipe = self.model.recipe
        parts = images.chunk(recipe.gradient_accumulation)
        with autocast(recipe.precision, images.device):
            if len(parts) == 1:
                return [function(images)]
            return [checkpoint(function, part, use_reentrant=False, preserve_rng_state=False) for part in parts]

    def set_warm_up(self, warm: bool) -> None:
        """Let only proxies, a classifier and routers train if `warm`, else all parameters.

        Without a routed path, routers never train.
        """
        unrouted = self.model.recipe.routed_weight == 0
        for name, parameter in self.named_parameters():
            if is_router(name):
                parameter.requires_grad_(not unrouted)
            else:
                parameter.requires_grad_(
                    not warm or not name.startswith("model.") or name.startswith("model.classifier.")
                )


def load_balance(routing: RoutingSums) -> Tensor:
    """Return K Σ_k f_k P_k averaged over routers: 1 for equal loads, K if one sub-block has all.

    f_k is the share of the global batch's tokens that go through sub-block k, and P_k the mean of
    p_k (Fedus et al., "Switch Transformers", 2021, equation 4). The publication has no such term.
    """
    tokens = sum_over_ranks(routing.tokens.clone())  # (routers, K)
    total = tokens.sum(dim=1, keepdim=True)
    terms = tokens / total * (routing.probability * world_size() / total)
    return tokens.shape[1] * terms.sum(dim=1).mean()


def is_router(parameter_name: str) -> bool:
    return "router." in parameter_name
