"""The training loop, the same in one process, under torchrun, and in a Ray Train worker."""

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

from dfml.data.streaming.evaluation_set import EvaluationSet
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.order import epoch_batches
from dfml.data.streaming.split import ClassSubset
from dfml.distributed import mean_over_ranks, rank, world_size
from dfml.embedding_model import build_model
from dfml.errors import InvalidInput
from dfml.evaluate import embed, embed_set
from dfml.evaluate.accuracy import accuracy
from dfml.losses import CONSTANTS
from dfml.objective import Objective
from dfml.precision import in_training, tf32
from dfml.recipe import Recipe
from dfml.task import BEST_SCORE, SCORE, TASKS, EpochMetrics
from dfml.telemetry import PROBE_IMAGES, RouterTelemetry
from dfml.train.checkpoint import load_training_state, save_training_state
from dfml.train.optimizer import build_optimizer
from dfml.train.pace import ThroughputMeter

# Called after each step with epoch and step (from 1), the number of steps, and the loss's terms.
OnStep = Callable[[int, int, int, dict[str, Tensor]], None]


CHECKPOINT_STEPS = 1000  # between two checkpoints within an epoch: minutes to an hour
MID_EPOCH = "mid_epoch.pt"
FINITE_STEPS = 20  # between two checks that the loss is finite; a check waits for the device


@dataclass(frozen=True)
class MidEpochState:
    """The progress of an unfinished epoch.

    Attributes:
        step: the last finished step, counted from 1.
        totals: the sum over these steps of each term of the loss, averaged over ranks.
        routing: the result of `RouterTelemetry.state`.
    """

    step: int
    totals: dict[str, Tensor]
    routing: dict[str, Tensor]


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite, so that continuing is pointless."""


class Training:
    """One run of a recipe on one split of classes.

    Args:
        recipe: the recipe.
        train: the images to train on.
        validation: the images to score each epoch on, or queries and their gallery; None: no score.
        device: the device of this rank.
        loader_workers: the DataLoader workers per rank; 0: decode and augment in this process.

    Raises:
        InvalidInput: the backbone or its weights can't be used, or a batch can't be filled, or
            can't be divided among the ranks.

    Attributes:
        metrics: the metrics of the last finished epoch; empty before the first.
        mid_epoch: the progress of the next epoch at its last checkpoint; None: no such checkpoint.
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
                f"batch_size {recipe.batch_size} leaves some of {world_size()} workers without an image; "
                f"set it to {world_size()} or more"
            )
        self.recipe = recipe
        self.train = train
        # From the first batch, whose shards are needed first anyway.
        self._probe = np.sort(self._order(epoch=1)[0][:PROBE_IMAGES])
        self._probed: Tensor | None = None  # the pixels of these images, once they are read
        # Proxies, routers and a linear head start the same on every rank.
        torch.manual_seed(recipe.seed)
        self.validation = EvaluationSet(validation) if isinstance(validation, ClassSubset) else validation
        self.device = device
        self.loader_workers = loader_workers
        self.model = build_model(recipe, class_names=[train.images.class_names[label] for label in train.classes])
        # Channels last, convolutions run about 1.5 times as fast on CPUs, and on tensor cores.
        objective = Objective(self.model, len(train.classes))
        self.objective = objective.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        of_loss = list(self.objective.metric_loss.parameters())
        loss_rate = recipe.proxy_lr_multiplier if CONSTANTS[recipe.loss].proxies else 1.0
        groups = [{"params": list(self.model.parameters()), "rate": 1.0}, {"params": of_loss, "rate": loss_rate}]
        self.optimizer = build_optimizer(recipe, [group for group in groups if group["params"]], device)
        # DDP around the objective, and which of its parameters train.
        self._wrapped: tuple[list[bool], nn.Module] | None = None
        self.metrics: EpochMetrics = {}
        self.mid_epoch: MidEpochState | None = None

    @property
    def epoch(self) -> int:
        """Return the last finished epoch; 0 before the first."""
        return int(self.metrics.get("epoch", 0))

    @property
    def precision(self) -> str:
        """Return the format of the model's products in training: "float32" or "bfloat16"."""
        return in_training(self.recipe.precision, self.device)

    def epochs(
        self,
        last: int | None = None,
        on_step: OnStep | None = None,
        on_checkpoint: Callable[[], None] | None = None,
        checkpoint_steps: int = CHECKPOINT_STEPS,
        on_validation: Callable[[], None] | None = None,
    ) -> Iterator[EpochMetrics]:
        """Train, and yield each epoch's metrics (equal on all ranks, timings aside).

        Args:
            last: the number of the last epoch; None: the recipe's last epoch.
            on_step: the function to call after each step.
            on_checkpoint: the function to call after every `checkpoint_steps` steps within an
                epoch; a state that it saves with `save` resumes from there.
            checkpoint_steps: the steps between mid-epoch checkpoints; shorter epochs have none.
            on_validation: the function to call before each epoch's score is computed.
        """
        checkpoints = (on_checkpoint, checkpoint_steps) if on_checkpoint is not None else None
        subsets = [self.train, *(self.validation.parts if self.validation is not None else [])]
        with Loader(self.recipe, subsets, self.loader_workers) as loader:
            for epoch in range(self.epoch + 1, (last or self.recipe.epochs) + 1):
                began, started = time.time(), time.perf_counter()
                lr = self._set_learning_rate(epoch)
                losses = self._train_epoch(epoch, loader, on_step, checkpoints)
                trained = time.perf_counter()
                if on_validation is not None:
                    on_validation()
                scores = self._validate(loader)
                seconds = {
                    "began": began,  # seconds since 1970
                    "train_seconds": trained - started,
                    "validation_seconds": time.perf_counter() - trained,
                }
                self.metrics = {"epoch": epoch, "lr": lr, **losses, **scores, **self._best(epoch, scores), **seconds}
                yield self.metrics

    def _train_epoch(
        self,
        epoch: int,
        loader: Loader,
        on_step: OnStep | None,
        checkpoints: tuple[Callable[[], None], int] | None,
    ) -> EpochMetrics:
        recipe = self.recipe
        batches = self._order(epoch)
        done = self.mid_epoch.step if self.mid_epoch else 0
        self.objective.train().set_warm_up(epoch <= recipe.warm_epochs)
        objective = self.distributed()
        telemetry = self._telemetry(loader)
        totals: dict[str, Tensor] = {}
        if self.mid_epoch:
            totals = {name: total.to(self.device) for name, total in self.mid_epoch.totals.items()}
            if telemetry is not None:
                telemetry.resume(self.mid_epoch.routing)
        pace = ThroughputMeter(self.device)
        share = loader.training(self.train, batches[done:], epoch, rank(), world_size())
        for step, (pixels, labels) in enumerate(pace.timed(share), start=done + 1):
            terms = self.train_step(objective, self.model.normalized(pixels), labels.to(self.device, non_blocking=True))
            totals = {name: totals.get(name, 0.0) + term for name, term in terms.items()}
            if telemetry is not None and self.objective.routing is not None:
                telemetry.add(self.objective.routing)
            if on_step is not None:
                on_step(epoch, step, len(batches), terms)
            if step % FINITE_STEPS == 0 or step == 1:
                self._check_finite(float(totals["loss"]), epoch, step)
            if checkpoints is not None and step % checkpoints[1] == 0 and step < len(batches):
                means = mean_over_ranks(torch.stack(list(totals.values())))
                routing = telemetry.state() if telemetry is not None else {}
                self.mid_epoch = MidEpochState(step, dict(zip(totals, means, strict=True)), routing)
                checkpoints[0]()
        self.mid_epoch = None
        mean = mean_over_ranks(torch.stack(list(totals.values())) / len(batches)).tolist()
        # The mean has waited for the GPU: all steps are done.
        speed = pace.metrics()
        for value in mean:
            self._check_finite(value, epoch, len(batches))
        routers = {} if telemetry is None else telemetry.metrics()
        return {**dict(zip(totals, mean, strict=True)), **routers, **speed}

    def _check_finite(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss} by step {step} of epoch {epoch} at learning rate {self.recipe.lr}; lower the rate"
            )

    def _order(self, epoch: int) -> np.ndarray:
        """Return the global batches of an epoch as indices into `train`, (steps, batch_size)."""
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

    def _telemetry(self, loader: Loader) -> RouterTelemetry | None:
        """Create the telemetry of an epoch; None if no router trains."""
        if self.recipe.routed_weight == 0:
            return None
        # The same images in every epoch, so they are read once.
        if self._probed is None:
            (self._probed, _), *_ = loader.evaluation(self.train, self._probe)
        return RouterTelemetry(self.model.backbone, self.model.normalized(self._probed))

    @tf32(allowed=True)
    def train_step(self, objective: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Do one step and return the loss and its terms.

        Args:
            objective: the objective, in DDP if there are several ranks (`distributed`).
            images: normalized images (B, 3, H, W), this rank's share of the batch.
            labels: their labels (B,).
        """
        # Before the forward pass, whose activations take the memory that gradients took.
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = objective(images, labels)
        terms["loss"].backward()
        nn.utils.clip_grad_value_(self.objective.parameters(), self.recipe.clip_value)
        self.optimizer.step()
        # Detached, so that the caller doesn't keep the graph through the next forward pass.
        return {name: term.detach() for name, term in terms.items()}

    def distributed(self) -> nn.Module:
        """Return the objective in DDP, wrapped again if other parameters train than before."""
        if not dist.is_initialized():
            return self.objective
        training = [parameter.requires_grad for parameter in self.objective.parameters()]
        if self._wrapped is None or self._wrapped[0] != training:
            # First dropped, to free its buffers.
            self._wrapped = None
            device_ids = [self.device.index] if self.device.type == "cuda" else None
            # The only buffers are running statistics of batch norms, which stay as pretrained.
            wrapped = DistributedDataParallel(self.objective, device_ids=device_ids, broadcast_buffers=False)
            self._wrapped = training, wrapped
        return self._wrapped[1]

    def _set_learning_rate(self, epoch: int) -> float:
        lr = self.recipe.lr * self.recipe.schedule.factor(epoch, self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        return lr

    def _best(self, epoch: int, scores: dict[str, float]) -> dict[str, float]:
        """Return the score, the best score so far, and its epoch; nothing without validation."""
        if not scores:
            return {}
        now = scores[TASKS[self.recipe.task].metric]
        if now > self.metrics.get(BEST_SCORE, -math.inf):
            return {SCORE: now, BEST_SCORE: now, "best_epoch": epoch}
        return {SCORE: now, BEST_SCORE: self.metrics[BEST_SCORE], "best_epoch": self.metrics["best_epoch"]}

    def _validate(self, loader: Loader) -> dict[str, float]:
        if self.validation is None:
            return {}
        if self.recipe.task == "classification":
            return accuracy(self.model, self.validation.queries, self.device, loader)
        return embed_set(self.validation, partial(self.embed, loader=loader)).score()

    def embed(self, subset: ClassSubset, loader: Loader | None = None) -> Tensor:
        """Return the embeddings (n, D) of the recipe's inference path, on every rank.

        Args:
            subset: the images.
            loader: a loader of `subset`; None: one for this call.
        """
        if loader is None:
            with Loader(self.recipe, [subset], self.loader_workers) as loader:
                return self.embed(subset, loader)
        self.model.eval()
        return embed(self.model, subset, self.model.normalization, self.device, loader)

    def save(self, directory: Path) -> None:
        """Save the training state after an epoch or, called by `on_checkpoint`, within one."""
        save_training_state(directory, self.objective, self.optimizer, self.metrics)
        if self.mid_epoch is not None:
            torch.save(asdict(self.mid_epoch), directory / MID_EPOCH)

    def load(self, directory: Path) -> None:
        """Resume from a state that `save` wrote; the number of processes may have changed."""
        self.metrics = load_training_state(directory, self.objective, self.optimizer)
        self.mid_epoch = None
        if (directory / MID_EPOCH).is_file():
            state = torch.load(directory / MID_EPOCH, map_location="cpu", weights_only=True)
            self.mid_epoch = MidEpochState(**state)
