"""`python -m dfml.train`: one training run with the flags of the publication's `train.py`."""

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
from dfml.command_line import INTERRUPTED, Parser, add_cache_flags, assignment, count, exit_code, print_error
from dfml.commands import cache_of, data_uri, loader_workers, print_metrics, print_rank0, processes
from dfml.data.format.manifest import manifest_sha256, read_manifest
from dfml.data.packing.readers import BENCHMARK_SETS
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes, training_and_validation
from dfml.determinism import make_deterministic
from dfml.distributed import rank
from dfml.errors import InvalidInput
from dfml.evaluate.final import metrics_on_test
from dfml.losses import loss_name
from dfml.protocol import PROTOCOLS
from dfml.recipe import Recipe, recipe_from
from dfml.saved_model import load
from dfml.task import BEST_SCORE, SCORE, TASKS
from dfml.train.progress import Progress
from dfml.train.run_folder import RunFolder
from dfml.train.training import CHECKPOINT_STEPS, Training, TrainingDiverged

DIVERGED = 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the publication's flags.

    The defaults are those of its `train.py`; for the model and the batch, those of its README.
    """
    made = Parser(
        prog="python -m dfml.train",
        description=f"{__doc__} It runs alone or under torchrun. Run the same command again to resume.",
    )
    # fmt: off
    data = made.add_argument_group("data and results")
    data.add_argument("--dataset", default="cub",
                      help=f"{', '.join(BENCHMARK_SETS)} in --data-root, or any name with --data")
    data.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR",
                      help="folder of the benchmark sets as published, which are packed on first use")
    data.add_argument("--data", metavar="DIR-or-S3", help="a packed data set, instead of --data-root")
    add_cache_flags(data)
    data.add_argument("--out", type=Path, metavar="DIR",
                      help="the run's folder (default: runs/<dataset>_<model>_<loss>)")
    data.add_argument("--checkpoint-steps", type=count, default=CHECKPOINT_STEPS, metavar="N",
                      help="steps between checkpoints within an epoch")
    data.add_argument("--protocol", choices=list(PROTOCOLS), default="holdout",
                      help="choose the epoch on held-out training classes, or (paper) on the test classes as published")
    data.add_argument("--workers", type=int, metavar="N",
                      help="image-loading workers per process (default: 4 with a GPU, else none)")

    model = made.add_argument_group("model")
    model.add_argument("--model", default="deit_small_distilled_patch16_224",
                       help="a timm model of a family that can be factorized")
    model.add_argument("--readpath", default="pretrained", metavar="FILE",
                       help='a file of weights, from timm or converted, or "pretrained" or "random"')
    model.add_argument("--sub-blocks", "--routers", dest="num_sub_blocks", type=int, default=3, metavar="K",
                       help="sub-blocks per block")
    model.add_argument("--embedding-size", type=int, metavar="D",
                       help="width of the embedding (default: the backbone's, without a linear head)")
    model.add_argument("--image-size", type=int, default=224, metavar="PIXELS",
                       help="side of the images, in training and at test")

    loss = made.add_argument_group("loss")
    loss.add_argument("--loss", default="Proxy_Anchor",
                      help="Proxy_Anchor, Proxy_NCA, MS, Contrastive, Triplet, NPair, Margin, NTXent, SupCon, "
                      "or cross_entropy for classification")
    loss.add_argument("--alpha", type=float, metavar="A", help="scale of Proxy_Anchor (default: 32)")
    loss.add_argument("--mrg", type=float, metavar="M",
                      help="margin of a loss that has one (default: the published margin)")

    steps = made.add_argument_group("optimization")
    steps.add_argument("--batch-size", type=int, default=120, metavar="B", help="images per batch, over all processes")
    steps.add_argument("--IPC", type=int, metavar="N",
                       help="images per class in a batch (default: batches are drawn at random)")
    steps.add_argument("--optimizer", default="adamw", metavar="NAME", help="adamw, adam, sgd or rmsprop")
    steps.add_argument("--lr", type=float, default=1e-4, help="learning rate")
    steps.add_argument("--weight-decay", type=float, default=1e-4, metavar="W", help="weight decay")
    steps.add_argument("--lr-decay-step", type=int, default=10, metavar="EPOCHS",
                       help="epochs between two decays of the learning rate")
    steps.add_argument("--lr-decay-gamma", type=float, default=0.5, metavar="G", help="factor of each decay")
    steps.add_argument("--epochs", type=int, default=60, metavar="E", help="number of epochs")
    steps.add_argument("--warm", type=int, default=1, metavar="EPOCHS",
                       help="first epochs, in which only proxies and routers train")
    steps.add_argument("--bn-freeze", type=int, choices=(0, 1), default=1,
                       help="1: batch norms keep their pretrained statistics, as they always do here")
    steps.add_argument("--seed", type=int, default=0, metavar="S",
                       help="seed of split, order, augmentation and initial proxies")
    steps.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                       help="any other value of the recipe (dfml/recipe.py), e.g. precision=bfloat16; repeatable")
    steps.add_argument("--deterministic", action="store_true",
                       help="on a GPU, get the same figures from the same seed, with slower algorithms; on a CPU they "
                       "are the same anyway")
    # fmt: on
    return made


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags describe.

    Raises:
        InvalidInput: a value can't be used, or is given twice.
    """
    if not timm.is_model(arguments.model):
        raise InvalidInput(f"--model {arguments.model}: timm has no such model; name one of timm.list_models()")
    # Only the model's structure is needed.
    with torch.device("meta"):
        backbone = timm.create_model(arguments.model, num_classes=0)
    if not arguments.bn_freeze and any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()):
        raise InvalidInput(
            f"--bn-freeze 0: batch norms of {arguments.model} would mix the full and the routed path in their "
            "statistics; set --bn-freeze 1"
        )
    size = arguments.embedding_size
    values = {
        "backbone": arguments.model,
        "weights": arguments.readpath,
        "num_sub_blocks": arguments.num_sub_blocks,
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
        raise InvalidInput(f"--set {twice[0]}: {twice[0]} has a flag of its own; use that flag (see --help)")
    return recipe_from({**values, **others})


def subsets_of(
    data: str, cache: Cache, arguments: argparse.Namespace, recipe: Recipe
) -> tuple[ClassSubset, ClassSubset]:
    """Return the images to train on, and the images on which the epoch is chosen."""
    images = ShardedImages(data, "train", cache)
    if not PROTOCOLS[arguments.protocol].scores_on_test:
        return training_and_validation(images, recipe.seed, recipe.task)
    if "test" not in read_manifest(data).splits:
        raise InvalidInput(
            f"--protocol paper: {arguments.dataset} has queries and a gallery, but no test split on which to choose "
            "the epoch; use holdout"
        )
    return subset_of_classes(images), subset_of_classes(ShardedImages(data, "test", cache))


def train(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train, keep the best and the last epoch in `--out`, and score the best on the test split."""
    recipe = recipe_of(arguments)
    data, cache = data_uri(arguments), cache_of(arguments)
    training, validation = subsets_of(data, cache, arguments, recipe)
    what = {
        "recipe": recipe.model_dump(mode="json"),
        "dataset": arguments.dataset,
        "manifest_sha256": manifest_sha256(data),
        "protocol": arguments.protocol,
        "window": training.images.window,  # depends on --cache-size, and determines the order of images
    }
    folder = RunFolder(arguments.out or Path("runs") / f"{arguments.dataset}_{recipe.backbone}_{recipe.loss}", what)
    task = TASKS[recipe.task]
    chosen_by = PROTOCOLS[arguments.protocol].of(task).epoch
    print_rank0(
        f"{arguments.dataset}: {len(training)} images of {len(training.classes)} classes to train on, "
        f"{len(validation)} images of {len(validation.classes)} classes to choose the epoch; "
        f"{arguments.protocol}: {chosen_by}"
    )
    workers = loader_workers(arguments.workers, device)
    run = Training(recipe, training, validation, device, workers)
    if rank() == 0:
        storage.check_writable(str(folder.root))
    _run(run, folder, arguments.checkpoint_steps)
    if dist.is_initialized():
        dist.barrier()  # until the best model is written
    metrics = metrics_on_test(load(folder.best).to(device), data, device, workers, cache=cache)
    if rank() == 0:
        folder.add_to_best({"test": metrics})
        print_metrics(f"Test {task.unit}, epoch {folder.best_metrics()['epoch']:.0f}: {chosen_by}", metrics)
        print_rank0(f"the model is in {folder.best}: dfml.load({str(folder.best)!r})")


def _run(training: Training, folder: RunFolder, checkpoint_steps: int) -> None:
    """Train to the last epoch, resuming the run if it was stopped."""
    recipe, heading = training.recipe, TASKS[training.recipe.task].heading
    if last := folder.last():
        training.load(last)
        step = f" and step {training.mid_epoch.step} of the next" if training.mid_epoch else ""
        print_rank0(f"resuming after epoch {training.epoch} of {recipe.epochs}{step} in {folder.root}")

    def keep() -> None:
        if rank() == 0:
            folder.save_mid_epoch(training)

    progress = Progress(print_rank0, recipe.batch_size)
    for metrics in training.epochs(on_step=progress, on_checkpoint=keep, checkpoint_steps=checkpoint_steps):
        seconds = metrics["train_seconds"] + metrics["validation_seconds"]
        print_rank0(
            f"epoch {training.epoch}/{recipe.epochs}  loss {metrics['loss']:.3f}  "
            f"{heading} {metrics[SCORE]:.3f} (best {metrics[BEST_SCORE]:.3f})  {seconds:.0f} s"
        )
        if rank() == 0:
            folder.keep(training)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    1 means that training diverged, 2 invalid input, and 130 Ctrl-C.
    """

    def work() -> int | None:
        arguments = parser().parse_args(argv)
        if arguments.deterministic:
            make_deterministic()
        try:
            with processes() as device:
                train(arguments, device)
        except TrainingDiverged as error:
            print_error(error)
            return DIVERGED
        except KeyboardInterrupt:
            print_rank0("stopped; run the same command again to resume from the last checkpoint")
            return INTERRUPTED
        return None

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
