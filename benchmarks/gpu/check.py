"""Check on a GPU that the project computes what it computes on CPUs, and measure how fast.

    python benchmarks/gpu/check.py [--only NAME ...] [--skip NAME ...] [--budget S] [--out DIR]

Each check prints lines `name: figure (bar) OK|MISSED`; a figure without a bar has no verdict. All
figures are written to DIR/<card>.json after each check (DIR: $OUT, else benchmarks/results/gpu). A
check that raises is recorded with its traceback, and the others still run; after one that leaves
the GPU unusable, a fresh process runs the rest. Checks for which no time is left are named as
skipped.

`--device cpu --tiny` runs the code of every check on small models without a GPU: a check that needs
one says so, and speed isn't judged.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

# Before the imports, because they take seconds of the budget.
BEGAN = time.monotonic()
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch  # noqa: E402

from benchmarks.gpu.context import Context  # noqa: E402
from benchmarks.gpu.order import CHECKS, USE_PHOTOS  # noqa: E402
from benchmarks.gpu.report import MISSED, Report  # noqa: E402
from benchmarks.gpu.sizes import FULL, TINY  # noqa: E402

# A check isn't begun with fewer seconds left, unless it needs fewer.
LEAST_SECONDS = 10.0
# How much longer than on a GPU a check may take on a CPU.
CPU_FACTOR = 20
# Seconds after the budget at which the whole process ends, whatever it does.
GRACE = 30


class OutOfTime(Exception):
    """A check took longer than it may."""


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here; --device cpu --tiny runs the checks without one", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = Report(
        arguments.out / f"{_card(arguments.device)}.json", judged=arguments.device == "cuda" and not arguments.tiny
    )
    work = arguments.work or Path(tempfile.mkdtemp(prefix="gpu-check-"))
    context = Context(arguments.device, TINY if arguments.tiny else FULL, report, work)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.*")
    logging.getLogger("dfml.telemetry").setLevel(logging.ERROR)
    names = [name for name in CHECKS if name in (arguments.only or CHECKS) and name not in arguments.skip]
    if arguments.work is not None:
        report.load()
        names = [name for name in names if name not in report.done]
    elif USE_PHOTOS & set(names):
        context.start_photos()
    if context.cuda:
        _end_after(arguments.budget - arguments.used, report)
    for name in names:
        _run(context, name, arguments.budget if context.cuda else math.inf, arguments.used)
        report.save()
        if not _usable(context):
            print(f"this process can't use the GPU any more after {name}: a fresh one runs the rest", flush=True)
            context.wait_for_quiet()
            _start_over(work, arguments.used + time.monotonic() - BEGAN)
    _summarize(report)
    shutil.rmtree(work, ignore_errors=True)
    return 0


def _card(device: str) -> str:
    """Return the card's name as a file name, such as nvidia-h100-80gb-hbm3."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--tiny", action="store_true", help="small models and few images, to check that everything runs")
    add("--only", nargs="+", choices=CHECKS, metavar="NAME", help=f"of {', '.join(CHECKS)}")
    add("--skip", nargs="+", choices=CHECKS, default=[], metavar="NAME")
    add("--budget", type=float, default=345.0, metavar="SECONDS", help="for all checks together (default: 345)")
    folder = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results" / "gpu"))
    add("--out", type=Path, default=folder, metavar="DIR", help="for the figures (<card>.json) and the commands' logs")
    # Of the process whose checks this one runs on: its folder, and the seconds that it took.
    add("--work", type=Path, help=argparse.SUPPRESS)
    add("--used", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser


def _run(context: Context, name: str, budget: float, used: float) -> None:
    """Run one check within its time, unless the budget has too little left."""
    check, report = CHECKS[name], context.report
    report.check = name
    left = budget - (time.monotonic() - BEGAN) - used
    if left < min(LEAST_SECONDS, check.seconds):
        report.skip("all", f"{left:.0f} s of the budget are left")
        return
    allowed = min(check.seconds, left) * (1 if context.cuda else CPU_FACTOR)
    context.deadline = time.monotonic() + allowed

    def end(*_: object) -> None:
        raise OutOfTime(f"more than {allowed:.0f} s")

    began = time.monotonic()
    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, allowed)
    try:
        check.run(context)
    except Exception as error:
        report.error(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    report.done[name] = round(time.monotonic() - began, 1)
    with contextlib.suppress(Exception):
        torch.cuda.empty_cache()


def _usable(context: Context) -> bool:
    """Return whether this process can still use its GPU: after some errors it can't."""
    if not context.cuda:
        return True
    try:
        torch.cuda.synchronize()
        return float(torch.ones(1, device=context.device).sum()) == 1.0
    except Exception:
        return False


def _start_over(work: Path, used: float) -> None:
    """Become a fresh process that runs the checks that haven't run."""
    words = [word for word in sys.argv[1:] if not word.startswith(("--work=", "--used="))]
    os.execv(sys.executable, [sys.executable, __file__, *words, f"--work={work}", f"--used={used}"])


def _end_after(seconds: float, report: Report) -> None:
    """End the process some time after the budget, even if it hangs where no signal reaches it."""

    def end() -> None:
        report.save()
        print(f"ended after {time.monotonic() - BEGAN:.0f} s, in {report.check}", flush=True)
        os._exit(3)

    guard = threading.Timer(max(LEAST_SECONDS, seconds) + GRACE, end)
    guard.daemon = True
    guard.start()


def _summarize(report: Report) -> None:
    verdicts = collections.Counter(line.get("verdict") or "without a bar" for line in report.lines)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    print(f"{counts}; seconds: {report.done}", flush=True)
    for line in report.lines:
        if line.get("verdict") == MISSED:
            print(f"MISSED {line['name']}: {line.get('value', '')}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
