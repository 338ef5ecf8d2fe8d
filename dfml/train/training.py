"""The train loop. Plain PyTorch: it runs the same in one process, under torchrun, and in a Ray Train worker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dfml.checkpoint import load_training_state, save_training_state
from dfml.data.evaluation_set import EvaluationSet
from dfml.data.loader import evaluation_batches, training_batches
from dfml.data.order import epoch_batches
from dfml.data.split import ClassSubset
from dfml.distributed import mean_over_ranks, rank, world_size
from dfml.embedding_model import build_model
from dfml.errors import InvalidInput
from dfml.evaluate import embed, embed_set
from dfml.evaluate.accuracy import accuracy
from dfml.losses import CONSTANTS
from dfml.objective import Objective
from dfml.recipe import Recipe
from dfml.task import BEST_SCORE, SCORE, TASKS
from dfml.telemetry import PROBE_IMAGES, RouterTelemetry
from dfml.train.pace import Pace

# With the publication's settings beside rate and weight decay.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, momentum=0.9),
}


# Called after each step with the epoch, the step and the epoch's steps, counted from 1, and the step's terms.
OnStep = Callable[[int, int, int, dict[str, Tensor]], None]


CHECKPOINT_STEPS = 1000  # between two checkpoints within an epoch: minutes to an hour
UNFINISHED = "unfinished.pt"
FINITE_STEPS = 20  # between two looks at whether the loss is a number; a look waits for the device


@dataclass(frozen=True)
class Unfinished:
    """How far an epoch is that hasn't ended.

    Attributes:
        step: the last step done, counted from 1.
        totals: sum over these steps of each of the loss's terms, the mean over ranks.
        routing: `RouterTelemetry.state`.
    """

    step: int
    totals: dict[str, Tensor]
    routing: dict[str, Tensor]


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; going on would be a waste."""


class Training:
    """One run of a recipe on one split of classes.

    Args:
        recipe: what to compute.
        train: images to train on.
        validation: images to score each epoch on, or queries and the gallery they are looked for in; None for none.
        device: where this rank computes.
        loader_workers: processes that decode and augment, per rank; 0: in this process.

    Raises:
        InvalidInput: the backbone or its weights can't be used, or a batch can't be filled, or not be divided among the ranks.

    Attributes:
        figures: what the last finished epoch yielded; empty before the first.
        unfinished: how far the epoch after it is, at its last checkpoint.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ClassSubset,
        validation: ClassSubset | EvaluationSet | None,
        device: torch.device,
        loader_workers: int = 0,
    ) -> None:
        if recipe.batch_size < world_size():
            raise InvalidInput(
                f"batch_size {recipe.batch_size} leaves some of {world_size()} workers without an image: make it {world_size()} or more"
            )
        self.recipe = recipe
        self.train = train
        # Of the first batch: their shards are needed first anyway.
        self._probe = np.sort(self._order(epoch=1)[0][:PROBE_IMAGES])
        torch.manual_seed(recipe.seed)  # proxies, routers and a linear head start the same on every rank
        self.validation = EvaluationSet(validation) if isinstance(validation, ClassSubset) else validation
        self.device = device
        self.loader_workers = loader_workers
        self.model = build_model(recipe, class_names=[train.images.class_names[label] for label in train.classes])
        # Channels last: convolutions run about 1.5 times as fast on CPUs, and on GPUs' tensor cores; ViTs don't mind.
        self.objective = Objective(self.model, len(train.classes)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        proxies = list(self.objective.metric_loss.parameters())
        proxy_rate = recipe.proxy_lr_multiplier if CONSTANTS[recipe.loss].proxies else 1.0
        groups = [{"params": list(self.model.parameters()), "rate": 1.0}, {"params": proxies, "rate": proxy_rate}]
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            [group for group in groups if group["params"]], lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.figures: dict[str, float] = {}
        self.unfinished: Unfinished | None = None

    @property
    def epoch(self) -> int:
        """The last finished epoch, 0 before the first."""
        return int(self.figures.get("epoch", 0))

    def epochs(
        self,
        last: int | None = None,
        on_step: OnStep | None = None,
        on_checkpoint: Callable[[], None] | None = None,
        checkpoint_steps: int = CHECKPOINT_STEPS,
        on_validation: Callable[[], None] | None = None,
    ) -> Iterator[dict[str, float]]:
        """Train up to epoch `last` (the recipe's length without it); yields each epoch's figures, the same on all ranks but for the clock's.

        Args:
            last: number of the epoch.
            on_step: called after each step.
            on_checkpoint: called within an epoch after every `checkpoint_steps` steps; what `save` writes then goes on from there.
            checkpoint_steps: an epoch of fewer has none.
            on_validation: called before each epoch's score is computed.
        """
        checkpoints = (on_checkpoint, checkpoint_steps) if on_checkpoint is not None else None
        for epoch in range(self.epoch + 1, (last or self.recipe.epochs) + 1):
            began, started = time.time(), time.perf_counter()
            lr = self._set_learning_rate(epoch)
            losses = self._train_epoch(epoch, on_step, checkpoints)
            trained = time.perf_counter()
            if on_validation is not None:
                on_validation()
            scores = self._validate()
            seconds = {
                "began": began,  # seconds since 1970
                "train_seconds": trained - started,
                "validation_seconds": time.perf_counter() - trained,
            }
            self.figures = {"epoch": epoch, "lr": lr, **losses, **scores, **self._best(epoch, scores), **seconds}
            yield self.figures

    def _train_epoch(
        self, epoch: int, on_step: OnStep | None, checkpoints: tuple[Callable[[], None], int] | None
    ) -> dict[str, float]:
        recipe = self.recipe
        batches = self._order(epoch)
        done = self.unfinished.step if self.unfinished else 0
        loader = training_batches(
            self.train,
            batches[done:],
            recipe,
            self.model.normalisation,
            epoch,
            rank(),
            world_size(),
            self.loader_workers,
        )
        self.objective.train().set_warm_up(epoch <= recipe.warm_epochs)
        objective = self._distributed()
        telemetry = self._telemetry()
        totals: dict[str, Tensor] = {}
        if self.unfinished:
            totals = {name: total.to(self.device) for name, total in self.unfinished.totals.items()}
            if telemetry is not None:
                telemetry.resume(self.unfinished.routing)
        pace = Pace(self.device)
        for step, (pixels, labels) in enumerate(pace.timed(loader), start=done + 1):
            terms = self._train_step(
                objective, pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            )
            totals = {name: totals.get(name, 0.0) + term.detach() for name, term in terms.items()}
            if telemetry is not None and self.objective.routing is not None:
                telemetry.add(self.objective.routing)
            if on_step is not None:
                on_step(epoch, step, len(batches), terms)
            if step % FINITE_STEPS == 0 or step == 1:
                self._check_finite(float(totals["loss"]), epoch, step)
            if checkpoints is not None and step % checkpoints[1] == 0 and step < len(batches):
                means = mean_over_ranks(torch.stack(list(totals.values())))
                routing = telemetry.state() if telemetry is not None else {}
                self.unfinished = Unfinished(step, dict(zip(totals, means, strict=True)), routing)
                checkpoints[0]()
        self.unfinished = None
        mean = mean_over_ranks(torch.stack(list(totals.values())) / len(batches)).tolist()
        speed = pace.figures()  # all steps have been computed now, also on a GPU
        for value in mean:
            self._check_finite(value, epoch, len(batches))
        routers = {} if telemetry is None else telemetry.figures()
        return {**dict(zip(totals, mean, strict=True)), **routers, **speed}

    def _check_finite(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss} by step {step} of epoch {epoch} at learning rate {self.recipe.lr}: lower it"
            )

    def _order(self, epoch: int) -> np.ndarray:
        """The global batches of an epoch, as members of `train`, (steps, batch_size)."""
        recipe, images = self.recipe, self.train.images
        return epoch_batches(
            self.train.targets,
            recipe.batch_size,
            recipe.images_per_class,
            recipe.seed,
            epoch,
            images.shard_numbers[self.train.rows],
            images.window,
        )

    def _telemetry(self) -> RouterTelemetry | None:
        """What follows the routers through an epoch; nothing where no router trains."""
        recipe = self.recipe
        if recipe.routed_weight == 0:
            return None
        (images, _), *_ = evaluation_batches(self.train, self._probe, recipe, self.model.normalisation, workers=0)
        return RouterTelemetry(self.model.backbone, images.to(self.device))

    def _train_step(self, objective: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = objective(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        nn.utils.clip_grad_value_(self.objective.parameters(), self.recipe.clip_value)
        self.optimizer.step()
        return terms

    def _distributed(self) -> nn.Module:
        """The objective under DDP; wrapped anew each epoch, because warm-up changes which parameters have gradients."""
        if not dist.is_initialized():
            return self.objective
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are running statistics of batch norms, which stay as pretrained: nothing to broadcast.
        return DistributedDataParallel(self.objective, device_ids=device_ids, broadcast_buffers=False)

    def _set_learning_rate(self, epoch: int) -> float:
        lr = self.recipe.lr * self.recipe.schedule.factor(epoch, self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        return lr

    def _best(self, epoch: int, scores: dict[str, float]) -> dict[str, float]:
        """The best validation score so far and its epoch; nothing without validation."""
        if not scores:
            return {}
        now = scores[TASKS[self.recipe.task].metric]
        if now > self.figures.get(BEST_SCORE, -math.inf):
            return {SCORE: now, BEST_SCORE: now, "best_epoch": epoch}
        return {SCORE: now, BEST_SCORE: self.figures[BEST_SCORE], "best_epoch": self.figures["best_epoch"]}

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        if self.recipe.task == "classification":
            return accuracy(self.model, self.validation.queries, self.device, self.loader_workers)
        return embed_set(self.validation, self.embed).score()

    def embed(self, subset: ClassSubset) -> Tensor:
        """Embeddings of the recipe's inference path, (n, D), on every rank."""
        self.model.eval()
        return embed(self.model, subset, self.recipe, self.model.normalisation, self.device, self.loader_workers)

    def save(self, directory: Path) -> None:
        """Save all that `load` needs to go on: after the last finished epoch, or, called by `on_checkpoint`, within the next."""
        save_training_state(directory, self.objective, self.optimizer, self.figures)
        if self.unfinished is not None:
            torch.save(asdict(self.unfinished), directory / UNFINISHED)

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote, in as many processes as there are now."""
        self.figures = load_training_state(directory, self.objective, self.optimizer)
        self.unfinished = None
        if (directory / UNFINISHED).is_file():
            state = torch.load(directory / UNFINISHED, map_location="cpu", weights_only=True)
            self.unfinished = Unfinished(**state)
