"""The command line of `run_sweep.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfml import storage
from dfml.command_line import INTERRUPTED, Parser, add_cache_flags, assignment, count, exit_code
from dfml.data.datasets import DATASETS, REPOSITORY, locate
from dfml.errors import InvalidInput
from orchestration.layout import check_uri
from orchestration.monitoring.wandb_runs import MODES, mode_for
from orchestration.plan import Conduct, Plan
from orchestration.results.protocols import PROTOCOLS
from orchestration.search.budget import parse_budget
from orchestration.search.objectives import Objective
from orchestration.search.space import read_space

OBJECTIVES: dict[str, Objective] = {
    "recall@1": "score",
    "top@1": "score",
    "flops": "flops",
}  # by the names of the command line


def parser() -> argparse.ArgumentParser:
    """Defaults make the demo: `python run_sweep.py` needs no argument."""
    made = Parser(
        prog="run_sweep.py",
        description="Search, train and keep the best factorized retrieval model of a data set. Without arguments: the demo, "
        "on the emoji that ship with the project. The same command again resumes a sweep that was interrupted.",
    )
    add = made.add_argument
    add(
        "--dataset",
        default="emoji",
        metavar="NAME",
        help=f"data set: {', '.join(DATASETS)}, or your own with --data",
    )
    add(
        "--data",
        metavar="DIR-or-S3",
        help="place of the packed data set, a folder or an s3:// URI (default: where NAME is known to be: with the project, below "
        "$DFML_DATA, or in data/packed)",
    )
    add_cache_flags(made)
    add("--search-space", type=Path, metavar="FILE", help="YAML file (default: search_spaces/<dataset>.yaml)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="fix a value of the recipe, e.g. lr=3e-4; repeatable",
    )
    add("--trials", type=count, default=4, metavar="N", help="configurations to try")
    add(
        "--max-epochs",
        type=count,
        metavar="E",
        help="epochs of a trial that isn't stopped early (default: the search space's)",
    )
    add(
        "--checkpoint-steps",
        type=count,
        default=Conduct().checkpoint_steps,
        metavar="N",
        help="steps between checkpoints within an epoch",
    )
    add(
        "--workers-per-trial",
        type=count,
        metavar="W",
        help="DDP workers: one CPU core, or GPU, each at least (default: 2, or 1 where the cluster has room for no more)",
    )
    add(
        "--min-workers",
        type=count,
        metavar="W",
        help="with how few workers a trial goes on while a lost node isn't replaced (default: all of --workers-per-trial: it waits)",
    )
    add(
        "--concurrent-trials",
        type=count,
        metavar="N",
        help="trials at once (default: as many as there are GPUs for; 1 on CPUs)",
    )
    add(
        "--objectives",
        default="recall@1",
        metavar="NAMES",
        help="what to optimise: recall@1 (top@1 for classification), or recall@1,flops for the front of accuracy against the FLOPs of "
        "routed inference",
    )
    add(
        "--budget",
        metavar="AMOUNT",
        help="ends the search: hours, minutes or epochs of all trials, such as 12h, 90min, 300epochs",
    )
    add(
        "--storage",
        default="sweeps",
        metavar="DIR-or-S3",
        help="where sweeps are kept: a folder or an s3:// URI",
    )
    add("--name", metavar="NAME", help="name of the sweep, a folder in the storage (default: the data set's name)")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="decides sampled configurations, split and training",
    )
    add(
        "--protocol",
        choices=list(PROTOCOLS),
        default="holdout",
        help="trials are scored on held-out training classes and only the winner on the test classes, or (paper) every epoch on the "
        "test classes, as published",
    )
    add(
        "--reproductions",
        type=count,
        default=1,
        metavar="N",
        help="seeds with which the winner is trained on all training classes; more than one give mean and 95 %% interval",
    )
    add(
        "--wandb",
        choices=MODES,
        help="Weights & Biases: a group for the sweep, a run for each trial (default: what WANDB_MODE says, else online where there is a key, "
        "else offline: into files that `wandb sync` uploads)",
    )
    add("--dry-run", action="store_true", help="print what would be run, and on which cluster; train and write nothing")
    add(
        "--extend",
        action="store_true",
        help="go on with a sweep whose bounds, trials, reproductions or budget have grown",
    )
    return made


def objectives_from(text: str) -> tuple[Objective, ...]:
    """The objectives in the plan's names.

    Raises:
        InvalidInput: there is one that isn't known, or no score.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in OBJECTIVES:
            raise InvalidInput(
                f"--objectives {text!r}: there is no objective {name!r}: choose among {', '.join(OBJECTIVES)}"
            )
    found = tuple(dict.fromkeys(OBJECTIVES[name] for name in names))
    if found[0] != "score":
        raise InvalidInput(
            f"--objectives {text!r} doesn't begin with a score: give recall@1,flops (top@1,flops for classification)"
        )
    return found


def plan_from(arguments: argparse.Namespace) -> tuple[Plan, str]:
    """The plan that arguments stand for, and its sweep's folder.

    Raises:
        InvalidInput: they can't be used; nothing was started or written.
    """
    data = locate(arguments.dataset, arguments.data)
    file = arguments.search_space or REPOSITORY / "search_spaces" / f"{arguments.dataset.lower()}.yaml"
    if arguments.search_space is None and not file.is_file():
        raise InvalidInput(
            f"there is no search space for {arguments.dataset!r}: name one with --search-space, such as search_spaces/emoji.yaml"
        )
    fixed = _fixed(arguments)
    name = arguments.name or arguments.dataset
    if "/" in name or name.startswith("."):
        raise InvalidInput(f"--name {name!r} isn't a folder's name: give one without '/' that doesn't start with '.'")
    root = storage.absolute(arguments.storage)
    check_uri(root)
    check_uri(storage.join(root, name))
    objectives = objectives_from(arguments.objectives)
    if "flops" in objectives:
        # A front of accuracy against FLOPs is one of the path whose FLOPs are counted.
        fixed.setdefault("inference", "routed")
    plan = Plan(
        name=name,
        dataset=arguments.dataset,
        data=data,
        cache_size=arguments.cache_size,
        trials=arguments.trials,
        workers_per_trial=arguments.workers_per_trial,
        seed=arguments.seed,
        protocol=arguments.protocol,
        reproductions=arguments.reproductions,
        objectives=objectives,
        budget=parse_budget(arguments.budget) if arguments.budget is not None else None,
        space=read_space(file).fixed(fixed, "the command line").with_absolute_weights(),
    )
    plan.check(Conduct(cache_dir=_cache_dir(arguments)).cache_folder())
    storage.check_writable(root)
    return plan, storage.join(root, name)


def _fixed(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line fixes of the recipe.

    Raises:
        InvalidInput: it does so twice.
    """
    found: dict[str, Any] = {"seed": arguments.seed}
    if arguments.max_epochs is not None:
        found["epochs"] = arguments.max_epochs
    flags = {"seed": "--seed", "epochs": "--max-epochs"}
    for name, value in map(assignment, arguments.set):
        if name in found:
            other = flags.get(name, f"--set {name}={found[name]}")
            raise InvalidInput(f"--set {name}={value} says what {other} says already: give one of the two")
        found[name] = value
    return found


def conduct_from(arguments: argparse.Namespace) -> Conduct:
    """How the sweep is to be run.

    Raises:
        InvalidInput: Weights & Biases can't be used as asked.
    """
    return Conduct(
        cache_dir=_cache_dir(arguments),
        checkpoint_steps=arguments.checkpoint_steps,
        concurrent_trials=arguments.concurrent_trials,
        min_workers=arguments.min_workers,
        wandb=mode_for(arguments.wandb),
    )


def _cache_dir(arguments: argparse.Namespace) -> str | None:
    return storage.absolute(str(arguments.cache_dir)) if arguments.cache_dir else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run `run_sweep.py`; returns its exit code: 0, 2 for input that can't be used, 130 after Ctrl-C."""

    def work() -> int | None:
        arguments = parser().parse_args(argv)
        plan, sweep = plan_from(arguments)
        conduct = conduct_from(arguments)

        # These import Ray, which takes seconds: not before the input is known to be good.
        from orchestration.console import Console
        from orchestration.sweep import dry_run, run_sweep
        from orchestration.trials.runs import Interrupted

        console = Console(plan.trials, "test" if plan.protocol == "paper" else "validation")
        if arguments.dry_run:
            dry_run(plan, sweep, console, conduct, arguments.extend)
            return None
        try:
            run_sweep(plan, sweep, console, conduct, arguments.extend)
        except (Interrupted, KeyboardInterrupt):
            print("Interrupted; the same command goes on from here.", file=sys.stderr)
            return INTERRUPTED
        return None

    return exit_code(work)
