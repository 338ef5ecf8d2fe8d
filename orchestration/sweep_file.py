"""`sweep.json`: the plan of a sweep, written before anything runs and compared on resuming."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from dfml import storage
from dfml.data.format.manifest import manifest_sha256
from dfml.errors import InvalidInput
from orchestration.plan import Plan, git_revision, versions
from orchestration.search.widening import why_not_superset
from orchestration.sweep_folder import layout

# Fields of the plan that --extend may raise, next to the bounds of the search space.
GROWS = ("trials", "reproductions", "budget")
MAX_DIFFERENCES = 5  # number of differences that a message lists


class SweepFile(BaseModel):
    """The contents of `sweep.json`.

    Attributes:
        created: the time at which the sweep was begun, ISO 8601.
        plan: the sweep's plan.
        manifest_sha256: SHA-256 of the manifest of its data.
        versions: versions of Python and of packages when it was begun or last extended.
        git_revision: revision of this code at that time; None outside a git checkout.
        command: the command line at that time.
    """

    created: str
    plan: Plan
    manifest_sha256: str
    versions: dict[str, str]
    git_revision: str | None
    command: str

    @staticmethod
    def of(plan: Plan, before: SweepFile | None = None) -> SweepFile:
        """Return the file of a sweep that begins now, or that extends `before` now."""
        return SweepFile(
            created=before.created if before else datetime.now(UTC).isoformat(timespec="seconds"),
            plan=plan,
            manifest_sha256=manifest_sha256(plan.data),
            versions=versions(),
            git_revision=git_revision(),
            command=shlex.join(["python", *sys.argv]),
        )

    @staticmethod
    def load(sweep: str) -> SweepFile | None:
        """Read `sweep.json` from a sweep's folder; None if there is none."""
        uri = storage.join(sweep, layout.SWEEP)
        return SweepFile.model_validate_json(storage.read(uri)) if storage.exists(uri) else None

    def save(self, sweep: str) -> None:
        """Write `sweep.json` to a sweep's folder."""
        storage.write(storage.join(sweep, layout.SWEEP), (self.model_dump_json(indent=1) + "\n").encode())

    def with_workers(self, plan: Plan) -> Plan:
        """Return a plan with this sweep's workers per trial if it leaves them open."""
        if plan.workers_per_trial is not None:
            return plan
        return plan.model_copy(update={"workers_per_trial": self.plan.workers_per_trial})

    def check_same(self, plan: Plan, sweep: str) -> None:
        """Check that a plan is this sweep's own, so that the sweep can be resumed.

        Raises:
            InvalidInput: the plan differs, or the data changed; the message lists how.
        """
        self._check_data(plan, sweep)
        if differences := _differences(_json(self.plan), _json(plan)):
            raise InvalidInput(
                f"the sweep {sweep} was begun with another plan ({_listed(differences)}); repeat the old arguments to "
                "resume it, choose another --name, or add --extend if bounds, trials, reproductions or the budget only "
                "grow"
            )

    def is_extended_by(self, plan: Plan, sweep: str) -> bool:
        """Return whether a plan extends this sweep; False if it is the same.

        An extension may have more trials or reproductions, a larger budget, or a wider space.

        Raises:
            InvalidInput: the plan differs in another way, or the data changed.
        """
        self._check_data(plan, sweep)
        before, now = _json(self.plan), _json(plan)
        differences = _differences(before, now)
        rest = {name: pair for name, pair in differences.items() if name.split(".")[0] not in (*GROWS, "space")}
        rest |= {name: (before[name], now[name]) for name in GROWS if not _grows(before[name], now[name])}
        narrower = why_not_superset(self.plan.space, plan.space)
        if rest or narrower:
            reasons = "; ".join([*narrower, *([_listed(rest)] if rest else [])])
            raise InvalidInput(
                f"--extend can't turn the sweep {sweep} into this one ({reasons}); it may only widen bounds and raise "
                "trials, reproductions or the budget"
            )
        return before != now

    def _check_data(self, plan: Plan, sweep: str) -> None:
        """Check that the data set wasn't packed again: scores would not be comparable."""
        before, now = self.manifest_sha256, manifest_sha256(plan.data)
        if plan.data == self.plan.data and before != now:
            raise InvalidInput(
                f"the sweep {sweep} was begun with other content of {plan.data} (manifest SHA-256 {before[:12]}…, now "
                f"{now[:12]}…); restore the old data, or choose another --name"
            )


def _json(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(mode="json")


def _grows(before: Any, now: Any) -> bool:
    """Return whether a number or a budget isn't smaller than before; None is no limit."""
    if now is None or before is None:
        return now is None
    if isinstance(before, dict):
        return all((now[unit] or 0) >= (amount or 0) for unit, amount in before.items())
    return bool(now >= before)


def _listed(differences: dict[str, tuple[Any, Any]]) -> str:
    shown = [f"{name} = {before!r}, now it is {now!r}" for name, (before, now) in differences.items()]
    more = len(shown) - MAX_DIFFERENCES
    return "; ".join(shown[:MAX_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _differences(before: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the leaves in which two JSON values differ, keyed by their dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*before, *now}):
            found |= _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if before == now else {name: (before, now)}
