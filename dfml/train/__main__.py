"""`python -m dfml.train`: one training run with the flags of the publication's `train.py`; alone or under torchrun."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from torch import nn

from dfml import storage
from dfml.checkpoint import load
from dfml.command_line import INTERRUPTED, Parser, add_cache_flags, assignment, complain, count, exit_code
from dfml.commands import cache_of, data_place, loader_workers, processes, say, say_metrics
from dfml.data.cache import Cache
from dfml.data.dataset import ShardedImages
from dfml.data.manifest import manifest_sha256, read_manifest
from dfml.data.split import ClassSubset, subset_of_classes, training_and_validation
from dfml.distributed import rank
from dfml.errors import InvalidInput
from dfml.evaluate.final import metrics_on_test
from dfml.losses import loss_name
from dfml.recipe import Recipe, recipe_from
from dfml.task import BEST_SCORE, SCORE, TASKS
from dfml.train.progress import Progress
from dfml.train.run_folder import RunFolder
from dfml.train.training import CHECKPOINT_STEPS, Training, TrainingDiverged

PROTOCOLS = {
    "holdout": "training {unit} that were held out chose the epoch; the test {unit} were looked at once",
    "paper": "the epoch was chosen by {heading} on the test {unit} themselves, as published: the figures flatter",
}
DIVERGED = 1


def parser() -> argparse.ArgumentParser:
    """The publication's flags, by its names; defaults are its `train.py`'s, but for the model and the batch, its README's."""
    made = Parser(prog="python -m dfml.train", description=f"{__doc__} The same command again resumes a run.")
    # fmt: off
    data = made.add_argument_group("data and results")
    data.add_argument("--dataset", default="cub", help="cub, cars, SOP or Inshop below --data-root, or any name with --data")
    data.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="holds the benchmark sets as published; packed once")
    data.add_argument("--data", metavar="DIR-or-S3", help="a packed data set, in place of --data-root")
    add_cache_flags(data)
    data.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/<dataset>_<model>_<loss>)")
    data.add_argument("--checkpoint-steps", type=count, default=CHECKPOINT_STEPS, metavar="N", help="steps between checkpoints within an epoch")
    data.add_argument("--protocol", choices=list(PROTOCOLS), default="holdout", help="the epoch is chosen on held-out training classes, or (paper) on the test classes as published")
    data.add_argument("--workers", type=int, metavar="N", help="processes that load images, per process (default: 4 with a GPU, else none)")

    model = made.add_argument_group("model")
    model.add_argument("--model", default="deit_small_distilled_patch16_224", help="a timm model of a family that factorizes")
    model.add_argument("--readpath", default="pretrained", metavar="FILE", help='weights, as timm has them or converted, or "pretrained" or "random"')
    model.add_argument("--routers", type=int, default=3, metavar="K", help="sub-blocks a block")
    model.add_argument("--embedding-size", type=int, metavar="D", help="width of the embedding (default: the backbone's, which needs no linear head)")
    model.add_argument("--image-size", type=int, default=224, metavar="PIXELS", help="side of the images, in training and at test")

    loss = made.add_argument_group("loss")
    loss.add_argument("--loss", default="Proxy_Anchor", help="Proxy_Anchor, Proxy_NCA, MS, Contrastive, Triplet, NPair, Margin, NTXent, SupCon, or cross_entropy for classification")
    loss.add_argument("--alpha", type=float, metavar="A", help="scale of Proxy_Anchor (default: 32)")
    loss.add_argument("--mrg", type=float, metavar="M", help="margin of a loss that has one (default: its published one)")

    steps = made.add_argument_group("optimisation")
    steps.add_argument("--batch-size", type=int, default=120, metavar="B", help="images over all processes")
    steps.add_argument("--IPC", type=int, metavar="N", help="images of a class in a batch (default: batches are drawn at random)")
    steps.add_argument("--optimizer", default="adamw", metavar="NAME", help="adamw, adam, sgd or rmsprop")
    steps.add_argument("--lr", type=float, default=1e-4, help="learning rate")
    steps.add_argument("--weight-decay", type=float, default=1e-4, metavar="W", help="weight decay")
    steps.add_argument("--lr-decay-step", type=int, default=10, metavar="EPOCHS", help="epochs after which the rate decays")
    steps.add_argument("--lr-decay-gamma", type=float, default=0.5, metavar="G", help="factor by which it decays")
    steps.add_argument("--epochs", type=int, default=60, metavar="E", help="epochs in all")
    steps.add_argument("--warm", type=int, default=1, metavar="EPOCHS", help="first epochs, in which only proxies and routers train")
    steps.add_argument("--bn-freeze", type=int, choices=(0, 1), default=1, help="1: batch norms keep their pretrained statistics, as ours always do")
    steps.add_argument("--seed", type=int, default=0, metavar="S", help="decides split, order, augmentation and initial proxies")
    steps.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other value of the recipe (dfml/recipe.py), e.g. precision=bfloat16; repeatable")
    # fmt: on
    return made


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the flags mean.

    Raises:
        InvalidInput: a value can't be used, or is given twice.
    """
    if not timm.is_model(arguments.model):
        raise InvalidInput(f"--model {arguments.model}: timm has no such model; name one of timm.list_models()")
    with torch.device("meta"):  # its shape alone
        backbone = timm.create_model(arguments.model, num_classes=0)
    if not arguments.bn_freeze and any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()):
        raise InvalidInput(
            f"--bn-freeze 0: batch norms of {arguments.model} would mix full and routed path in their statistics; set --bn-freeze 1"
        )
    size = arguments.embedding_size
    values = {
        "backbone": arguments.model,
        "weights": arguments.readpath,
        "routers": arguments.routers,
        "embedding_size": None if size == backbone.num_features else size,
        "image_size": arguments.image_size,
        "loss": loss_name(arguments.loss),
        "alpha": arguments.alpha,
        "margin": arguments.mrg,
        "batch_size": arguments.batch_size,
        "images_per_class": arguments.IPC,
        "optimizer": arguments.optimizer,
        "lr": arguments.lr,
        "weight_decay": arguments.weight_decay,
        "schedule": {"kind": "step", "step": arguments.lr_decay_step, "gamma": arguments.lr_decay_gamma},
        "epochs": arguments.epochs,
        "warm_epochs": arguments.warm,
        "seed": arguments.seed,
    }
    others = dict(assignment(text) for text in arguments.set)
    if twice := sorted(set(others) & set(values)):
        raise InvalidInput(f"--set {twice[0]}: a flag of its own gives {twice[0]}; use that one (--help names it)")
    return recipe_from({**values, **others})


def subsets_of(
    data: str, cache: Cache, arguments: argparse.Namespace, recipe: Recipe
) -> tuple[ClassSubset, ClassSubset]:
    """The images to train on, and those on which the epoch is chosen."""
    images = ShardedImages(data, "train", cache)
    if arguments.protocol == "holdout":
        return training_and_validation(images, recipe.seed, recipe.task)
    if "test" not in read_manifest(data).splits:
        raise InvalidInput(
            f"--protocol paper: {arguments.dataset} has queries and a gallery, and no test split to choose an epoch by; use holdout"
        )
    return subset_of_classes(images), subset_of_classes(ShardedImages(data, "test", cache))


def train(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train, keep the best and the last epoch in `--out`, and score the best on the test classes."""
    recipe = recipe_of(arguments)
    data, cache = data_place(arguments), cache_of(arguments)
    training, validation = subsets_of(data, cache, arguments, recipe)
    what = {
        "recipe": recipe.model_dump(mode="json"),
        "dataset": arguments.dataset,
        "manifest_sha256": manifest_sha256(data),
        "protocol": arguments.protocol,
        "window": training.images.window,  # of --cache-size: it decides in which order images come
    }
    folder = RunFolder(arguments.out or Path("runs") / f"{arguments.dataset}_{recipe.backbone}_{recipe.loss}", what)
    task = TASKS[recipe.task]
    chosen_by = PROTOCOLS[arguments.protocol].format(unit=task.unit, heading=task.heading)
    say(f"{arguments.dataset}: {len(training)} images of {len(training.classes)} classes to train on, {len(validation)} of "
        f"{len(validation.classes)} to choose the epoch; {arguments.protocol}: {chosen_by}")  # fmt: skip
    workers = loader_workers(arguments.workers, device)
    run = Training(recipe, training, validation, device, workers)
    if rank() == 0:
        storage.check_writable(str(folder.root))
    _run(run, folder, arguments.checkpoint_steps)
    if dist.is_initialized():
        dist.barrier()  # the best model is written
    metrics = metrics_on_test(load(folder.best).to(device), data, device, workers, cache=cache)
    if rank() == 0:
        folder.add_to_best({"test": metrics})
        say_metrics(f"Test {task.unit}, epoch {folder.best_figures()['epoch']:.0f}: {chosen_by}", metrics)
        say(f"the model is in {folder.best}: dfml.load({str(folder.best)!r})")


def _run(training: Training, folder: RunFolder, checkpoint_steps: int) -> None:
    """Train up to the last epoch, from where the run stopped."""
    recipe, heading = training.recipe, TASKS[training.recipe.task].heading
    if last := folder.last():
        training.load(last)
        step = f" and step {training.unfinished.step} of the next" if training.unfinished else ""
        say(f"going on after epoch {training.epoch} of {recipe.epochs}{step} in {folder.root}")

    def keep() -> None:
        if rank() == 0:
            folder.keep_unfinished(training)

    progress = Progress(say, recipe.batch_size)
    for figures in training.epochs(on_step=progress, on_checkpoint=keep, checkpoint_steps=checkpoint_steps):
        seconds = figures["train_seconds"] + figures["validation_seconds"]
        say(f"epoch {training.epoch}/{recipe.epochs}  loss {figures['loss']:.3f}  {heading} {figures[SCORE]:.3f} "
            f"(best {figures[BEST_SCORE]:.3f})  {seconds:.0f} s")  # fmt: skip
        if rank() == 0:
            folder.keep(training)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 where training diverges, 2 for input that can't be used, 130 after Ctrl-C."""

    def work() -> int | None:
        arguments = parser().parse_args(argv)
        try:
            with processes() as device:
                train(arguments, device)
        except TrainingDiverged as error:
            complain(error)
            return DIVERGED
        except KeyboardInterrupt:
            say("stopped; the same command goes on from the last checkpoint")
            return INTERRUPTED
        return None

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
