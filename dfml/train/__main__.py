"""`python -m dfml.train`: one training run with the flags of the publication's `train.py`; alone or under torchrun."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from torch import nn

from dfml.checkpoint import CONFIG, load, save_model
from dfml.commands import data_folder, print_metrics
from dfml.data.manifest import FILE_NAME, read_manifest
from dfml.data.shards import ShardedImages
from dfml.data.split import subset_of_classes, training_and_validation
from dfml.distributed import rank
from dfml.errors import InvalidInput
from dfml.evaluate.final import metrics_on_test
from dfml.losses import loss_name
from dfml.recipe import Recipe, recipe_from
from dfml.task import BEST_SCORE
from dfml.train.training import Training, TrainingDiverged

PROTOCOLS = {
    "holdout": "a class-disjoint fifth of the training classes chose the epoch; the test classes were looked at once",
    "paper": "the epoch was chosen by R@1 on the test classes themselves, as published: the figures flatter",
}
RUN = "run.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dfml.train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="cub", help="cub, cars, SOP or Inshop below --data-root, or any name with --data")
    add(
        "--data-root",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="holds the benchmark sets as published; packed once",
    )
    add("--data", metavar="DIR", help="a packed data set, in place of --data-root")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="the run's folder (default: runs/<dataset>_<model>_<loss>); the same command resumes",
    )
    add("--protocol", choices=list(PROTOCOLS), default="holdout", help="how the epoch is chosen: " + "; ".join(
        f"{name}: {words}" for name, words in PROTOCOLS.items()))  # fmt: skip
    add("--model", default="deit_small_distilled_patch16_224", help="a timm model of a family that factorizes")
    add(
        "--readpath",
        default="pretrained",
        metavar="FILE",
        help='weights, as timm has them or converted; "pretrained", "random"',
    )
    add("--routers", type=int, default=3, metavar="K", help="sub-blocks a block")
    add(
        "--embedding-size",
        type=int,
        metavar="D",
        help="width of the embedding; the backbone's own needs no linear head",
    )
    add("--image-size", type=int, default=224, metavar="PIXELS", help="side of the images, in training and at test")
    add(
        "--loss",
        default="Proxy_Anchor",
        help="Proxy_Anchor, Proxy_NCA, MS, Contrastive, Triplet, NPair, Margin, NTXent or SupCon",
    )
    add("--alpha", type=float, help="the loss's scale; its published one without")
    add("--mrg", type=float, help="the loss's margin; its published one without")
    add("--batch-size", type=int, default=120, metavar="B", help="images over all processes")
    add("--IPC", type=int, metavar="N", help="images of a class in a batch; without, batches are drawn at random")
    add("--optimizer", default="adamw", help="adamw, adam, sgd or rmsprop")
    add("--lr", type=float, default=1e-4, help="learning rate")
    add("--weight-decay", type=float, default=1e-4, help="weight decay")
    add("--lr-decay-step", type=int, default=10, metavar="EPOCHS", help="epochs after which the rate decays")
    add("--lr-decay-gamma", type=float, default=0.5, metavar="G", help="factor by which it decays")
    add("--epochs", type=int, default=60, help="epochs in all")
    add("--warm", type=int, default=1, metavar="EPOCHS", help="first epochs, in which only proxies and routers train")
    add(
        "--bn-freeze",
        type=int,
        choices=(0, 1),
        default=1,
        help="1: batch norms keep their pretrained statistics, as ours always do",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that load images, per process (default: 4 with a GPU, else none)",
    )
    add("--seed", type=int, default=0, help="decides split, order, augmentation and initial proxies")
    return parser.parse_args(argv)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the publication's flags mean.

    Raises:
        InvalidInput: a value can't be used.
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
    return recipe_from(
        {
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
    )


def train(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train, keep the best and the last epoch in `--out`, and score the best on the test classes."""
    recipe = recipe_of(arguments)
    data = data_folder(arguments.dataset, arguments.data, arguments.data_root)
    out = arguments.out or Path("runs") / f"{arguments.dataset}_{recipe.backbone}_{recipe.loss}"
    facts = {
        "dataset": arguments.dataset,
        "manifest_sha256": hashlib.sha256((data / FILE_NAME).read_bytes()).hexdigest(),
        "protocol": arguments.protocol,
    }
    run = {"recipe": recipe.model_dump(mode="json"), **facts}
    _check_same_run(out, run)
    images = ShardedImages(data, "train")
    if arguments.protocol == "holdout":
        subsets = training_and_validation(images, recipe.seed, recipe.task)
    else:
        if "test" not in read_manifest(data).splits:
            raise InvalidInput(
                f"--protocol paper: {arguments.dataset} has queries and a gallery, and no test split to choose an epoch by; use holdout"
            )
        subsets = subset_of_classes(images), subset_of_classes(ShardedImages(data, "test"))
    workers = arguments.workers if arguments.workers is not None else 4 * (device.type == "cuda")
    training = Training(recipe, *subsets, device, workers)
    if done := _epochs_done(out):
        training.load(done[-1])
        _say(f"going on after epoch {training.epoch} of {recipe.epochs} in {out}")
    _say(f"{arguments.dataset}: {len(subsets[0])} images of {len(subsets[0].classes)} classes to train on, "
         f"{len(subsets[1])} of {len(subsets[1].classes)} to choose the epoch; {arguments.protocol}: {PROTOCOLS[arguments.protocol]}")  # fmt: skip
    for figures in training.epochs():
        seconds = figures["train_seconds"] + figures["validation_seconds"]
        _say(f"epoch {training.epoch}/{recipe.epochs}  loss {figures['loss']:.3f}  R@1 {figures['recall_at_1']:.3f} "
             f"(best {figures[BEST_SCORE]:.3f})  {seconds:.0f} s")  # fmt: skip
        if rank() == 0:
            _keep(out, training, run)
    if dist.is_initialized():
        dist.barrier()
    best = load(out / "best").to(device)
    metrics = metrics_on_test(best, data, device, workers)
    if rank() == 0:
        config = json.loads((out / "best" / CONFIG).read_text(encoding="utf-8"))
        _write(out / "best" / CONFIG, {**config, "test": metrics})
        print_metrics(
            f"Test classes, epoch {int(config['figures']['epoch'])}: {PROTOCOLS[arguments.protocol]}", metrics
        )
        print(f"the model is in {out / 'best'}: dfml.load({str(out / 'best')!r})", flush=True)


def _keep(out: Path, training: Training, run: dict[str, Any]) -> None:
    """Store the epoch just finished: its line, the best model, and what the run goes on from; then drop what is older."""
    figures = training.figures
    out.mkdir(parents=True, exist_ok=True)
    _write(out / RUN, run)
    with (out / "epochs.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(figures) + "\n")
    if figures["best_epoch"] == training.epoch:
        partial = out / "best.partial"
        shutil.rmtree(partial, ignore_errors=True)
        save_model(partial, training.model, {**run, "figures": figures})
        shutil.rmtree(out / "best", ignore_errors=True)
        partial.rename(out / "best")
    older = _epochs_done(out)
    partial = out / "epoch.partial"
    shutil.rmtree(partial, ignore_errors=True)
    training.save(partial)
    partial.rename(out / f"epoch_{training.epoch:04d}")
    for folder in older:
        shutil.rmtree(folder)


def _epochs_done(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("epoch_*") if path.is_dir())


def _check_same_run(out: Path, run: dict[str, Any]) -> None:
    """See that a folder that holds a run holds this one."""
    place = out / RUN
    if not place.is_file():
        return
    before = json.loads(place.read_text(encoding="utf-8"))
    then, now = ({**found["recipe"], **{k: v for k, v in found.items() if k != "recipe"}} for found in (before, run))
    changed = [name for name in now if then.get(name) != now[name]]
    if changed:
        name = changed[0]
        raise InvalidInput(
            f"{out} holds a run with {name} = {then.get(name)!r}, now it is {now[name]!r}: give it again as it was to go on, or name "
            "another --out"
        )


def _write(place: Path, content: dict[str, Any]) -> None:
    partial = place.with_name(place.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.rename(place)


def _say(line: str) -> None:
    if rank() == 0:
        print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that can't be used."""
    arguments = parse(argv)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if "RANK" in os.environ:  # torchrun's
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        train(arguments, device)
    except (InvalidInput, TrainingDiverged) as error:
        if rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    except KeyboardInterrupt:
        _say("stopped; the same command goes on after the last finished epoch")
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
