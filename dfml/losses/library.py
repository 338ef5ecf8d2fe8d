"""Losses of pytorch-metric-learning, with the constants of the publication's code (`losses.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.utils import common_functions
from torch import Tensor, nn

Parts = tuple[nn.Module, nn.Module | None]  # a loss, and the miner that chooses its pairs or triplets

# For each loss, a function from classes, embedding width and margin to its parts.
LIBRARY: dict[str, Callable[[int, int, float], Parts]] = {
    # The publication scales embeddings and proxies by 3, hence squared distances by 9. The
    # library's denominator includes the positive proxy, the publication's doesn't (Teh et al.,
    # "ProxyNCA++", 2020, §3.2).
    "proxy_nca": lambda classes, width, _: (losses.ProxyNCALoss(classes, width, softmax_scale=9), None),
    "ms": lambda *_: (losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5), miners.MultiSimilarityMiner(epsilon=0.1)),
    "contrastive": lambda _, __, margin: (losses.ContrastiveLoss(neg_margin=margin), None),
    "triplet": lambda _, __, margin: (
        losses.TripletMarginLoss(margin=margin),
        miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard"),
    ),
    "npair": lambda *_: (losses.NPairsLoss(), None),
    "margin": lambda classes, _, margin: (
        losses.MarginLoss(margin=margin, beta=1.2, learn_beta=True, num_classes=classes),
        miners.DistanceWeightedMiner(cutoff=0.5),
    ),
    "ntxent": lambda *_: (losses.NTXentLoss(), None),
    "supcon": lambda *_: (losses.SupConLoss(), None),  # not in the publication: the library's temperature, 0.1
}


class LibraryLoss(nn.Module):
    """A loss of pytorch-metric-learning with its miner, for one or several ranks.

    Args:
        loss: the library's loss.
        miner: the library's miner; None: use all pairs.
        seed: the seed of the miner's random draws.
    """

    def __init__(self, loss: nn.Module, miner: nn.Module | None, seed: int) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner
        self.seed = seed

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of L2-normalized embeddings (B, D) for labels (B,), int64 in 0 … C-1."""
        with torch.autocast(embeddings.device.type, enabled=False), _drawing_alike(self.seed, labels):
            embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            chosen = None if self.miner is None else self.miner(embeddings, labels)
            loss: Tensor = self.loss(embeddings, labels, chosen)
        # If nothing was mined the loss is constant, but DistributedDataParallel needs gradients.
        return loss + 0.0 * (embeddings.sum() + sum(parameter.sum() for parameter in self.parameters()))


@contextmanager
def _drawing_alike(seed: int, labels: Tensor) -> Iterator[None]:
    """Seed random draws by the seed and the batch's labels: equal on all ranks and when resumed."""
    drawn = np.random.SeedSequence([seed, *labels.tolist()])
    generator = common_functions.NUMPY_RANDOM
    with torch.random.fork_rng(devices=[labels.device] if labels.is_cuda else []):
        torch.manual_seed(int(drawn.generate_state(1, np.uint64)[0] >> 1))
        common_functions.NUMPY_RANDOM = np.random.default_rng(drawn)
        try:
            yield
        finally:
            common_functions.NUMPY_RANDOM = generator
