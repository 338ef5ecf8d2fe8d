"""The flags of `run_sweep.py`: its `--help`."""

from __future__ import annotations

import argparse
from decimal import Decimal, InvalidOperation
from pathlib import Path

from dfml.command_line import Parser, add_cache_flags, count
from dfml.data.datasets import SHIPPED
from dfml.data.packing.readers import BENCHMARK_SETS
from dfml.protocol import PROTOCOLS
from orchestration.callbacks.wandb_mode import MODES
from orchestration.plan import ExecutionOptions


def parser() -> argparse.ArgumentParser:
    """Return the parser of `run_sweep.py`; its defaults are those of the demo."""
    made = Parser(
        prog="run_sweep.py",
        description="Search, train and keep the best factorized retrieval model for a data set. Without arguments it "
        "runs the demo on the emoji that ship with the project. Run the same command again to resume an interrupted "
        "sweep.",
    )
    _add_data_flags(made.add_argument_group("data"))
    _add_search_flags(made.add_argument_group("search"))
    _add_evaluation_flags(made.add_argument_group("evaluation"))
    _add_execution_flags(made.add_argument_group("execution"))
    _add_results_flags(made.add_argument_group("results"))
    return made


def _add_data_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--dataset",
        default="emoji",
        metavar="NAME",
        help=f"data set: {', '.join([*SHIPPED, *BENCHMARK_SETS])}, or your own with --data",
    )
    group.add_argument(
        "--data",
        metavar="DIR-or-S3",
        help="location of the packed data set, a folder or an s3:// URI (default: where NAME is found: with the "
        "project, in $DFML_DATA, or in data/packed)",
    )
    add_cache_flags(group)


def _add_search_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--search-space", type=Path, metavar="FILE", help="YAML file (default: search_spaces/<dataset>.yaml)"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="fix a value of the recipe, e.g. lr=3e-4; repeatable",
    )
    group.add_argument("--trials", type=count, default=4, metavar="N", help="number of configurations to try")
    group.add_argument(
        "--max-epochs",
        type=count,
        metavar="E",
        help="epochs of a trial that isn't stopped early (default: from the search space)",
    )
    group.add_argument(
        "--objectives",
        default="recall@1",
        metavar="NAMES",
        help="values to optimize: recall@1 (top@1 for classification), or recall@1,flops for the Pareto front of "
        "accuracy and the FLOPs of routed inference",
    )
    group.add_argument(
        "--budget",
        metavar="AMOUNT",
        help="limit of the search: hours, minutes or epochs of all trials, such as 12h, 90min or 300epochs "
        "(default: no limit)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of sampled configurations, split and training",
    )


def _add_evaluation_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="holdout",
        help="holdout: score trials on held-out training classes, and only the winner on the test classes; paper: "
        "score every epoch on the test classes, as published",
    )
    group.add_argument(
        "--reproductions",
        type=count,
        default=1,
        metavar="N",
        help="number of seeds with which the winner is trained on all training classes; two or more give mean and "
        "95 %% interval",
    )


def _add_execution_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--workers-per-trial",
        type=count,
        metavar="W",
        help="DDP workers per trial, each with a GPU, or at least one CPU core (default: with GPUs 1, or more if fewer "
        "trials than GPUs are left; without GPUs 2, or 1 if there is no room for more)",
    )
    group.add_argument(
        "--gpus-per-worker",
        type=gpu_share,
        metavar="F",
        help="part of a GPU for each worker, at most 1: with 0.5, two trials of one worker share a GPU and its memory "
        "(default: 1 if there are GPUs)",
    )
    group.add_argument(
        "--min-workers",
        type=count,
        metavar="W",
        help="fewest workers a trial may continue with after losing a node (default: --workers-per-trial)",
    )
    group.add_argument(
        "--concurrent-trials",
        type=count,
        metavar="N",
        help="trials that run at the same time (default: as many as there are GPUs for, 1 on CPUs)",
    )
    group.add_argument(
        "--checkpoint-steps",
        type=count,
        default=ExecutionOptions().checkpoint_steps,
        metavar="N",
        help="steps between checkpoints within an epoch",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="on GPUs, get the same figures from the same seed, with slower algorithms; on CPUs they are the same "
        "anyway",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be run, and on which cluster; train and write nothing",
    )
    group.add_argument(
        "--extend",
        action="store_true",
        help="continue a sweep with wider bounds, or more trials, reproductions or budget",
    )
    group.add_argument("--verbose", action="store_true", help="print the messages of driver.log too, including Ray's")


def gpu_share(text: str) -> float:
    """Parse a part of a GPU, more than 0 and at most 1 (the type of a flag)."""
    try:
        share = Decimal(text)
        # Ray allocates no finer parts.
        if 0 < share <= 1 and share == round(share, 4):
            return float(share)
    except InvalidOperation:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} isn't a part of a GPU; give more than 0 and at most 1, with up to four decimals, such as 0.5: a "
        "worker never uses two GPUs"
    )


def _add_results_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--storage", default="sweeps", metavar="DIR-or-S3", help="location of sweeps: a folder or an s3:// URI"
    )
    group.add_argument(
        "--name",
        metavar="NAME",
        help="name of the sweep, and of its folder in the storage (default: the data set's name)",
    )
    group.add_argument(
        "--wandb",
        choices=MODES,
        help="Weights & Biases, with a group per sweep and a run per trial (default: WANDB_MODE if set, else online if "
        "there is a key, else offline: into files that `wandb sync` uploads)",
    )
