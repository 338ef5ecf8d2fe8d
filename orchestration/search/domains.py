"""What one name of a search space may be: a choice of values, a range, or a schedule with values of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, field_validator, model_validator

from dfml.schedule import SCHEDULES

if TYPE_CHECKING:
    import optuna

GOLDEN = 0.381966  # of a range: no round number in most
MANY = 256  # integers in a range; of more only the ends are tried when a space is read

Scalar = bool | int | float | str | None  # None: as where a recipe leaves it out


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(Model):
    choice: list[Scalar]

    @field_validator("choice")
    @classmethod
    def _not_empty(cls, choice: list[Scalar]) -> list[Scalar]:
        if not choice:
            raise ValueError("choice is empty: list at least one value")
        return choice

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        return trial.suggest_categorical(name, self.choice)

    def extremes(self) -> list[Scalar]:
        """Values that must all be legal for the whole domain to be."""
        return self.choice

    def drawn(self) -> list[Scalar]:
        """Values as Optuna draws them."""
        return self.choice

    def __contains__(self, value: object) -> bool:
        return value in self.choice


class Range(Model):
    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or not math.isfinite(self.high):
            raise ValueError(f"low {self.low} must be below high {self.high}")
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
        """Of integers all, since one between may not go with another value: a batch size with images a class."""
        if self.integers and self.high - self.low < MANY:
            return list(range(int(self.low), int(self.high) + 1))
        return [self.low, self.high]

    def drawn(self) -> list[Scalar]:
        """Values as Optuna draws them, no integers among them where it draws real numbers."""
        return [self.low, self.high] if self.integers else [self.low + GOLDEN * (self.high - self.low)]

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or (self.integers and not isinstance(value, int)):
            return False
        return self.low <= value <= self.high


def _domain_kind(domain: Any) -> str:
    """Which of the three a domain is meant to be, so that messages speak of that one only."""
    choice = domain.get("choice") if isinstance(domain, dict) else getattr(domain, "choice", None)
    if isinstance(choice, dict):
        return "schedule"
    return "range" if choice is None else "choice"


Values = Annotated[Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")], Discriminator(_domain_kind)]


class ScheduleChoice(Model):
    """A decay schedule, and the values of the kind that was chosen."""

    choice: dict[str, dict[str, Values]]

    @field_validator("choice")
    @classmethod
    def _known(cls, choice: dict[str, dict[str, Choice | Range]]) -> dict[str, dict[str, Choice | Range]]:
        if not choice:
            raise ValueError(f"choice is empty: list at least one of {', '.join(SCHEDULES)}")
        for kind, values in choice.items():
            if kind not in SCHEDULES:
                raise ValueError(f"there is no schedule {kind!r}: choose among {', '.join(SCHEDULES)}")
            allowed = set(SCHEDULES[kind].model_fields) - {"kind"}
            if unknown := sorted(set(values) - allowed):
                has = ", ".join(sorted(allowed)) or "no values of its own"
                raise ValueError(f"schedule {kind!r} has no {unknown[0]!r}: it has {has}")
        return choice

    def extremes(self) -> list[Any]:
        """As `Choice.extremes`, in the form that a recipe has."""
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
