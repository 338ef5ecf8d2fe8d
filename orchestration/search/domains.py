"""The domains of a search space: a choice of values, a range, or a choice of schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Tag, field_validator, model_validator

from dfml.schedule import SCHEDULES
from dfml.strict_model import StrictModel

if TYPE_CHECKING:
    import optuna

GOLDEN = 0.381966  # probe point as a share of a range, chosen so that it is rarely an integer
MANY = 256  # integers in a range; if there are more, only its ends are checked when a space is read

Scalar = bool | int | float | str | None  # None: the recipe omits the value


class Choice(StrictModel):
    choice: list[Scalar]

    @field_validator("choice")
    @classmethod
    def _not_empty(cls, choice: list[Scalar]) -> list[Scalar]:
        if not choice:
            raise ValueError("choice is empty; list at least one value")
        return choice

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        return trial.suggest_categorical(name, self.choice)

    def extremes(self) -> list[Scalar]:
        """Return values whose legality implies that of the whole domain."""
        return self.choice

    def drawn(self) -> list[Scalar]:
        """Return values as Optuna samples them."""
        return self.choice

    def __contains__(self, value: object) -> bool:
        return value in self.choice


class Range(StrictModel):
    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or not math.isfinite(self.high):
            raise ValueError(f"low {self.low} must be less than high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 for a logarithmic range")
        return self

    @property
    def integers(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        if self.integers:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def extremes(self) -> list[Scalar]:
        """Return values whose legality implies that of the whole domain.

        For integers, that is every value: one in between may be illegal with another field
        (batch_size with images_per_class).
        """
        if self.integers and self.high - self.low < MANY:
            return list(range(int(self.low), int(self.high) + 1))
        return [self.low, self.high]

    def drawn(self) -> list[Scalar]:
        """Return values as Optuna samples them: no integers if it samples real numbers."""
        return [self.low, self.high] if self.integers else [self.low + GOLDEN * (self.high - self.low)]

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or (self.integers and not isinstance(value, int)):
            return False
        return self.low <= value <= self.high


def _domain_kind(domain: Any) -> str:
    """Return which of the three kinds a domain is, so that messages are about that kind only."""
    choice = domain.get("choice") if isinstance(domain, dict) else getattr(domain, "choice", None)
    if isinstance(choice, dict):
        return "schedule"
    return "range" if choice is None else "choice"


Values = Annotated[Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")], Discriminator(_domain_kind)]


class ScheduleChoice(StrictModel):
    """A choice of decay schedules, each with the domains of its own values."""

    choice: dict[str, dict[str, Values]]

    @field_validator("choice")
    @classmethod
    def _known(cls, choice: dict[str, dict[str, Choice | Range]]) -> dict[str, dict[str, Choice | Range]]:
        if not choice:
            raise ValueError(f"choice is empty; list at least one of {', '.join(SCHEDULES)}")
        for kind, values in choice.items():
            if kind not in SCHEDULES:
                raise ValueError(f"there is no schedule {kind!r}; choose from {', '.join(SCHEDULES)}")
            allowed = set(SCHEDULES[kind].model_fields) - {"kind"}
            if unknown := sorted(set(values) - allowed):
                has = ", ".join(sorted(allowed)) or "no values of its own"
                raise ValueError(f"schedule {kind!r} has no value {unknown[0]!r}; it has {has}")
        return choice

    def extremes(self) -> list[Any]:
        """Return the extremes of each kind's values, in the form of a recipe."""
        return [
            {"kind": kind, name: value}
            for kind, values in self.choice.items()
            for name, inner in (values.items() or [("kind", Choice(choice=[kind]))])
            for value in inner.extremes()
        ]


Domain = Annotated[
    Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")] | Annotated[ScheduleChoice, Tag("schedule")],
    Discriminator(_domain_kind),
]
