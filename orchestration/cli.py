"""The command line of `run_sweep.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from dfml import storage
from dfml.command_line import INTERRUPTED, assignment, exit_code
from dfml.data.datasets import REPOSITORY, locate
from dfml.errors import InvalidInput
from dfml.protocol import PROTOCOLS
from orchestration.callbacks.wandb_mode import mode_for
from orchestration.flags import parser
from orchestration.plan import ExecutionOptions, Plan
from orchestration.search.budget import parse_budget
from orchestration.search.objectives import parse_objectives
from orchestration.search.space import read_space
from orchestration.sweep_folder.layout import check_uri


def plan_from(arguments: argparse.Namespace) -> tuple[Plan, str]:
    """Return the plan that the arguments describe, and the folder or URI of its sweep.

    Raises:
        InvalidInput: the arguments can't be used; nothing was started or written.
    """
    data = locate(arguments.dataset, arguments.data)
    file = arguments.search_space or REPOSITORY / "search_spaces" / f"{arguments.dataset.lower()}.yaml"
    if arguments.search_space is None and not file.is_file():
        raise InvalidInput(
            f"there is no search space for {arguments.dataset!r}; name one with --search-space, such as "
            "search_spaces/emoji.yaml"
        )
    fixed = _fixed(arguments)
    name = arguments.name or arguments.dataset
    if "/" in name or name.startswith("."):
        raise InvalidInput(f"--name {name!r} isn't a folder's name; give one without '/' that doesn't start with '.'")
    root = storage.absolute(arguments.storage)
    check_uri(root)
    check_uri(storage.join(root, name))
    objectives = parse_objectives(arguments.objectives)
    if "flops" in objectives:
        # Accuracy and FLOPs must be those of the same path.
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
        space=read_space(file).fixed(fixed, "the command line", file).with_absolute_weights(),
    )
    plan.check(ExecutionOptions(cache_dir=_cache_dir(arguments)).cache_folder())
    storage.check_writable(root)
    return plan, storage.join(root, name)


def _fixed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the recipe that the command line fixes.

    Raises:
        InvalidInput: a value is given twice.
    """
    found: dict[str, Any] = {"seed": arguments.seed}
    if arguments.max_epochs is not None:
        found["epochs"] = arguments.max_epochs
    for name, value in map(assignment, arguments.set):
        if name == "seed":
            raise InvalidInput(f"--set seed={value} can't be used; give --seed {value}")
        if name in found:
            other = "--max-epochs" if name == "epochs" else f"--set {name}={found[name]}"
            raise InvalidInput(f"--set {name}={value}: {name} is already set by {other}; change it there")
        found[name] = value
    return found


def options_from(arguments: argparse.Namespace) -> ExecutionOptions:
    """Return the options of how to run the sweep.

    Raises:
        InvalidInput: Weights & Biases can't be used as requested.
    """
    return ExecutionOptions(
        cache_dir=_cache_dir(arguments),
        checkpoint_steps=arguments.checkpoint_steps,
        concurrent_trials=arguments.concurrent_trials,
        deterministic=arguments.deterministic,
        gpus_per_worker=arguments.gpus_per_worker,
        min_workers=arguments.min_workers,
        wandb=mode_for(arguments.wandb),
        verbose=arguments.verbose,
    )


def _cache_dir(arguments: argparse.Namespace) -> str | None:
    return storage.absolute(str(arguments.cache_dir)) if arguments.cache_dir else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run `run_sweep.py` and return its exit code.

    Returns:
        0, 1 if the sweep failed, 2 for invalid input, or 130 after Ctrl-C.
    """

    def work() -> int | None:
        arguments = parser().parse_args(argv)
        plan, sweep = plan_from(arguments)
        options = options_from(arguments)

        # These import Ray, which takes seconds: only once the input is known to be valid.
        from orchestration.callbacks.console import Console
        from orchestration.sweep import dry_run, run_sweep
        from orchestration.trials.runs import Interrupted

        console = Console(plan.trials, PROTOCOLS[plan.protocol].scored_on)
        if arguments.dry_run:
            dry_run(plan, sweep, console, options, arguments.extend)
            return None
        try:
            run_sweep(plan, sweep, console, options, arguments.extend)
        except (Interrupted, KeyboardInterrupt):
            print("Interrupted; run the same command again to resume.", file=sys.stderr)
            return INTERRUPTED
        return None

    return exit_code(work)
