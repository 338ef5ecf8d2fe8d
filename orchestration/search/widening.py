"""The check that a search space widens another, so that a sweep can be extended (`--extend`)."""

from __future__ import annotations

from typing import Any

from dfml.recipe import recipe_from
from orchestration.search.domains import Choice, Range, ScheduleChoice
from orchestration.search.space import SearchSpace


def why_not_superset(older: SearchSpace, newer: SearchSpace) -> list[str]:
    """Return the reasons why `newer` isn't a superset of `older`; empty if it is.

    A fixed value must stay the same, or be among the values that are searched now; a searched name
    must stay searched, in a range or choice that includes the old one; a schedule may gain kinds.
    `first` only affects new trials and may change.
    """
    found = [*_fixed(older, newer), *_searched(older, newer)]
    old, new = older.domains(), newer.domains()
    for name in [name for name in old if name in new]:
        found += _domain(name, old[name], new[name])
    return found


def _fixed(older: SearchSpace, newer: SearchSpace) -> list[str]:
    """Return the differences in values that `older` doesn't search, including implicit defaults."""
    before, now = (space.defaults().model_dump(mode="json") for space in (older, newer))
    found = []
    for name, value in before.items():
        if name in older.search:
            continue
        if name not in newer.search:
            if now[name] != value:
                found.append(f"{name} was fixed at {value!r} and is now fixed at {now[name]!r}")
        elif not _holds(newer.search[name], value):
            found.append(f"{name} was fixed at {value!r}, which isn't among the values searched now")
    return found


def _holds(domain: Choice | Range | ScheduleChoice, value: Any) -> bool:
    """Return whether a recipe's value, in JSON's form, is in a domain."""
    if not isinstance(domain, ScheduleChoice):
        return value in domain
    inner = domain.choice.get(value["kind"])
    return inner is not None and all(value[name] in values for name, values in inner.items())


def _searched(older: SearchSpace, newer: SearchSpace) -> list[str]:
    """Return the differences in names that only one of the two spaces searches."""
    old, new = older.domains(), newer.domains()
    found = [f"{name} was searched and isn't searched now" for name in old if name not in new]
    before = older.search.get("schedule")
    if isinstance(before, ScheduleChoice):
        for name in new:
            # A schedule's value that wasn't searched: old trials of that kind have its default.
            kind, _, inner = name.removeprefix("schedule.").partition(".")
            if name.startswith("schedule.") and name not in old and kind in before.choice:
                default = recipe_from({**older.recipe, "schedule": {"kind": kind}}).model_dump(mode="json")["schedule"]
                if default[inner] not in new[name]:
                    found.append(f"{name} was fixed at {default[inner]!r}, which isn't among the values searched now")
    return found


def _domain(name: str, old: Choice | Range, new: Choice | Range) -> list[str]:
    if isinstance(old, Choice):
        missing = [value for value in old.choice if value not in new]
        return (
            [f"{name} was searched with {missing[0]!r}, which isn't among the values searched now"] if missing else []
        )
    if isinstance(new, Choice):
        return [f"{name} was searched from {old.low} to {old.high} and is now a choice"]
    if old.low < new.low or old.high > new.high:
        return [f"{name} was searched from {old.low} to {old.high} and is now from {new.low} to {new.high}"]
    if old.integers != new.integers or old.log != new.log:
        return [f"{name} was searched {_scale(old)} and is now {_scale(new)}"]
    return []


def _scale(domain: Range) -> str:
    return ("in integers" if domain.integers else "in real numbers") + (", logarithmic" if domain.log else ", linear")
