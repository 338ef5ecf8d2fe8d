"""Search spaces: a YAML file with a recipe's defaults, what is searched, and the configurations tried first.

    recipe: {backbone: tf_efficientnet_lite0, epochs: 6, ...}     # every trial's values
    search:                                                       # names of the recipe
      routers: {choice: [2, 3, 4, 6]}
      lr: {low: 1.0e-4, high: 3.0e-3, log: true}                  # two integers give integers
      schedule:                                                   # each kind with its own values: conditional
        choice: {step: {step: {low: 1, high: 3}}, cosine: {}}
    first:                                                        # tried before anything is sampled
      - {routers: 3, lr: 6.0e-4, schedule: {kind: step, step: 2}}

A sampled value has the name `lr`, one of a schedule `schedule.step.gamma`; these are Optuna's names too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError, field_validator, model_validator

from dfml.errors import InvalidInput
from dfml.recipe import Recipe, recipe_from
from dfml.schedule import SCHEDULES

if TYPE_CHECKING:
    import optuna

NOT_SEARCHED = {"epochs": "ASHA decides how long a trial runs", "seed": "trials would differ by luck"}

Scalar = bool | int | float | str


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Model):
    choice: list[Scalar]

    @field_validator("choice")
    @classmethod
    def _not_empty(cls, choice: list[Scalar]) -> list[Scalar]:
        if not choice:
            raise ValueError("choice is empty: list at least one value")
        return choice

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        return trial.suggest_categorical(name, self.choice)  # type: ignore[return-value]  # one of ours, never None

    def extremes(self) -> list[Scalar]:
        """Values that must all be legal for the whole domain to be."""
        return self.choice

    def __contains__(self, value: object) -> bool:
        return value in self.choice


class Range(_Model):
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

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def extremes(self) -> list[Scalar]:
        return [self.low, self.high]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


def _domain_kind(domain: Any) -> str:
    """Which of the three a domain is meant to be, so that messages speak of that one only."""
    choice = domain.get("choice") if isinstance(domain, dict) else getattr(domain, "choice", None)
    if isinstance(choice, dict):
        return "schedule"
    return "range" if choice is None else "choice"


Values = Annotated[Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")], Discriminator(_domain_kind)]


class ScheduleChoice(_Model):
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


Domain = Annotated[
    Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")] | Annotated[ScheduleChoice, Tag("schedule")],
    Discriminator(_domain_kind),
]


class SearchSpace(_Model):
    """What a sweep searches; see the module's text for the file."""

    recipe: dict[str, Any] = {}
    search: dict[str, Domain]
    first: list[dict[str, Any]] = []

    @field_validator("search")
    @classmethod
    def _not_empty(cls, search: dict[str, Any]) -> dict[str, Any]:
        if not search:
            raise ValueError("nothing is searched: name at least one value of the recipe")
        return search

    @model_validator(mode="after")
    def _legal(self) -> SearchSpace:
        for name in (*self.search, *self.recipe):
            if name not in Recipe.model_fields:
                raise ValueError(
                    f"unknown name {name!r}: a recipe has {', '.join(Recipe.model_fields)}; use one of these"
                )
        for name, reason in NOT_SEARCHED.items():
            if name in self.search:
                raise ValueError(f"{name!r} can't be searched ({reason}): fix it under recipe")
        if both := sorted(set(self.search) & set(self.recipe)):
            raise ValueError(f"{both[0]!r} is both fixed under recipe and searched: keep one of the two")
        for name, domain in self.search.items():
            if isinstance(domain, ScheduleChoice) != (name == "schedule"):
                raise ValueError(
                    f"{name!r}: a schedule is searched with choice: {{kind: {{values}}}}, all else with choice: [values] or low and high"
                )
            for value in self._extremes(domain):
                recipe_from({**self.recipe, name: value})
        for point in self.first:
            self.parameters_of(point)
            recipe_from({**self.recipe, **point})
        return self

    @staticmethod
    def _extremes(domain: Choice | Range | ScheduleChoice) -> list[Any]:
        if not isinstance(domain, ScheduleChoice):
            return list(domain.extremes())
        return [
            {"kind": kind, name: value}
            for kind, values in domain.choice.items()
            for name, inner in (values.items() or [("kind", Choice(choice=[kind]))])
            for value in inner.extremes()
        ]

    def suggest(self, trial: optuna.Trial) -> Recipe:
        """Sample a recipe; conditional values are asked for only where they apply (Optuna's define-by-run)."""
        values: dict[str, Any] = {}
        for name, domain in self.search.items():
            if isinstance(domain, ScheduleChoice):
                kind = trial.suggest_categorical(name, list(domain.choice))
                inner = domain.choice[kind].items()
                values[name] = {"kind": kind} | {n: d.suggest(trial, f"{name}.{kind}.{n}") for n, d in inner}
            else:
                values[name] = domain.suggest(trial, name)
        return recipe_from({**self.recipe, **values})

    def values_of(self, name: str) -> list[Any]:
        """The values of a choice, all integers of a range, or the fixed value; empty where it is left to the default."""
        domain = self.search.get(name)
        if isinstance(domain, Range):
            return list(range(math.ceil(domain.low), math.floor(domain.high) + 1))
        if isinstance(domain, Choice):
            return list(domain.choice)
        return [self.recipe[name]] if name in self.recipe else []

    def parameters_of(self, point: dict[str, Any]) -> dict[str, Scalar]:
        """An entry of `first` in Optuna's names.

        Raises:
            InvalidInput: it has a name that isn't searched, or a value outside what is searched.
        """
        flat: dict[str, Scalar] = {}
        for name, value in point.items():
            domain = self.search.get(name)
            if domain is None:
                raise InvalidInput(
                    f"first: {name!r} isn't searched; searched are {', '.join(self.search)}: use these names only"
                )
            if isinstance(domain, ScheduleChoice):
                kind = value.get("kind") if isinstance(value, dict) else None
                if kind not in domain.choice:
                    raise InvalidInput(
                        f"first: schedule {value!r} isn't searched; kinds searched are {', '.join(domain.choice)}"
                    )
                flat[name] = kind
                pairs = [(f"{name}.{kind}.{n}", domain.choice[kind].get(n), v) for n, v in value.items() if n != "kind"]
            else:
                pairs = [(name, domain, value)]
            for full_name, inner, inner_value in pairs:
                if inner is None or inner_value not in inner:
                    raise InvalidInput(
                        f"first: {full_name} = {inner_value!r} lies outside what is searched: change one of the two"
                    )
                flat[full_name] = inner_value
        return flat

    def fixed(self, values: dict[str, Any], source: str) -> SearchSpace:
        """This space with values of the recipe fixed by the user.

        Args:
            values: names and values of the recipe.
            source: where they were given, for messages: "the command line".

        Raises:
            InvalidInput: one of them is searched, unknown or illegal.
        """
        if both := [name for name in values if name in self.search]:
            raise InvalidInput(
                f"{both[0]!r} is fixed on {source} ({values[both[0]]!r}) and searched by the search space {both[0]!r}: "
                "drop it from one of the two"
            )
        return build_space({**self.model_dump(exclude_defaults=True), "recipe": {**self.recipe, **values}}, source)


def build_space(content: Any, source: str) -> SearchSpace:
    """Validate the content of a search-space file.

    Raises:
        InvalidInput: one sentence for the first thing that is wrong, naming `source`.
    """
    try:
        return SearchSpace.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("choice", "range", "schedule", "[key]"))
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{source}: {place + ': ' if place else ''}{reason}") from error


def read_space(file: Path) -> SearchSpace:
    """Read a search-space file.

    Raises:
        InvalidInput: it is missing, isn't YAML, or isn't a legal space.
    """
    if not file.is_file():
        raise InvalidInput(f"search space {file} doesn't exist: name a YAML file such as search_spaces/emoji.yaml")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"search space {file} is not YAML ({reason}): mend it") from error
    return build_space(content, f"search space {file}")
