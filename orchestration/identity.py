"""`sweep.json`: which plan a sweep's folder belongs to. It is written before anything runs, and compared with on resuming."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from dfml import storage
from dfml.data.manifest import manifest_sha256
from dfml.errors import InvalidInput
from orchestration import layout
from orchestration.plan import Plan, git_revision, versions

CREATED = "created"
MANIFEST = "manifest_sha256"
GROWS = ("trials", "reproductions", "budget")  # may be raised by --extend, besides the bounds of the search space
SHOWN = 5  # differences that a message names


class Begun(BaseModel):
    """What `sweep.json` says; files of before a value was kept lack it.

    Attributes:
        created: when the sweep was begun, ISO 8601.
        plan: of the sweep.
        manifest_sha256: of its data.
        versions: of Python and the packages with which it was begun, or last extended; likewise the next two.
        git_revision: of this code; None outside a git checkout.
        command: the command line.
    """

    created: str | None = None
    plan: Plan
    manifest_sha256: str | None = None
    versions: dict[str, str] = {}
    git_revision: str | None = None
    command: str | None = None


def begun(sweep: str) -> Begun:
    """Read `sweep.json` of a sweep that has one."""
    return Begun.model_validate_json(storage.read(storage.join(sweep, layout.SWEEP)))


def with_its_workers(plan: Plan, sweep: str) -> Plan:
    """Return the plan, with the workers per trial that the sweep was begun with if the plan leaves them open."""
    if plan.workers_per_trial is not None or not storage.exists(storage.join(sweep, layout.SWEEP)):
        return plan
    return plan.model_copy(update={"workers_per_trial": begun(sweep).plan.workers_per_trial})


def store(plan: Plan, sweep: str) -> None:
    """Write `sweep.json`, with which a sweep begins; of one that is widened, anew."""
    content = {
        CREATED: created(sweep) or datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "plan": json.loads(plan.model_dump_json()),
        MANIFEST: manifest_sha256(plan.data),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    storage.write(storage.join(sweep, layout.SWEEP), (json.dumps(content, indent=1) + "\n").encode())


def created(sweep: str) -> str | None:
    """When the sweep in the folder was begun; None where there is none, or one of an earlier version."""
    place = storage.join(sweep, layout.SWEEP)
    found: str | None = json.loads(storage.read(place)).get(CREATED) if storage.exists(place) else None
    return found


def is_stored(plan: Plan, sweep: str) -> bool:
    """Whether this very sweep was begun in the folder, so that it is to be resumed.

    Raises:
        InvalidInput: the folder holds a sweep of another plan, or of other data; says in what they differ.
    """
    before = _stored(sweep, plan.data)
    if before is None:
        return False
    if differences := _differences(before, json.loads(plan.model_dump_json())):
        raise InvalidInput(
            f"the sweep {sweep} was begun with {_listed(differences)}: give it again as it was to resume, choose another --name, or "
            "add --extend where bounds, trials, reproductions or the budget only grow"
        )
    return True


def is_widened(plan: Plan, sweep: str) -> bool:
    """Whether the folder holds a sweep that this plan widens: more trials, reproductions or budget, wider bounds of what is searched.

    Raises:
        InvalidInput: there is none, or it differs in other things too, the data's content among them.
    """
    from orchestration.search.space import SearchSpace
    from orchestration.search.widening import not_widened

    before = _stored(sweep, plan.data)
    if before is None:
        raise InvalidInput(f"--extend: there is no sweep {sweep} yet: leave --extend out to begin it")
    now = json.loads(plan.model_dump_json())
    rest = {
        name: pair for name, pair in _differences(before, now).items() if name.split(".")[0] not in (*GROWS, "space")
    }
    for name in GROWS:
        if not _grows(before[name], now[name]):
            rest[name] = before[name], now[name]
    narrower = not_widened(SearchSpace.model_validate(before["space"]), plan.space)
    if rest or narrower:
        raise InvalidInput(
            f"--extend can't make the sweep {sweep} into this one: {'; '.join([*narrower, *([_listed(rest)] if rest else [])])}: it may only "
            "widen bounds and raise trials, reproductions or budget"
        )
    return before != now


def _stored(sweep: str, data: str) -> dict[str, Any] | None:
    """The plan in a sweep's folder, with the defaults of values that came later.

    Raises:
        InvalidInput: the data set at the sweep's own place `data` has been packed anew: scores before and after don't compare.
    """
    place = storage.join(sweep, layout.SWEEP)
    if not storage.exists(place):
        return None
    content = json.loads(storage.read(place))
    plan = content["plan"]
    before, now = content.get(MANIFEST), manifest_sha256(data)
    if plan["data"] == data and before not in (None, now):
        raise InvalidInput(
            f"the sweep {sweep} was begun with other content of {data} (manifest SHA-256 {before[:12]}…, now {now[:12]}…): put the old data "
            "back, or choose another --name"
        )
    defaults = {name: field.default for name, field in Plan.model_fields.items() if not field.is_required()}
    return {**json.loads(json.dumps(defaults)), **plan}


def _grows(before: Any, now: Any) -> bool:
    """Whether a number or a budget isn't less than it was; no budget is more than any."""
    if now is None or before is None:
        return now is None
    if isinstance(before, dict):
        return all((now[unit] or 0) >= (amount or 0) for unit, amount in before.items())
    return bool(now >= before)


def _listed(differences: dict[str, tuple[Any, Any]]) -> str:
    shown = [f"{name} = {before!r}, now it is {now!r}" for name, (before, now) in differences.items()]
    more = len(shown) - SHOWN
    return "; ".join(shown[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _differences(before: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """The leaves in which two JSON values differ, by their dotted names."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*before, *now}):
            found |= _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if before == now else {name: (before, now)}
