"""Search spaces: a YAML file with a recipe's defaults, what is searched, and the configurations tried first.

    recipe: {backbone: tf_efficientnet_lite0, epochs: 6, ...}     # every trial's values
    search:                                                       # names of the recipe
      routers: {choice: [2, 3, 4, 6]}
      lr: {low: 1.0e-4, high: 3.0e-3, log: true}                  # two integers give integers
      schedule:                                                   # each kind with its own values: conditional
        choice: {step: {step: {low: 1, high: 3}}, cosine: {}}
    first:                                                        # tried before anything is sampled
      - {routers: 3, lr: 6.0e-4, schedule: {kind: step, step: 2}}

A sampled value has the name `lr`, one of a schedule `schedule.step.gamma`; these are Optuna's names too. All values can come
together, so that all of their combinations must be legal: this is tried when a space is read, not found out by a trial.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from dfml import storage
from dfml.errors import InvalidInput
from dfml.recipe import Recipe, recipe_from
from orchestration.search.domains import Choice, Domain, Model, Range, Scalar, ScheduleChoice

if TYPE_CHECKING:
    import optuna

NOT_SEARCHED = {"epochs": "ASHA decides how long a trial runs", "seed": "trials would differ by luck"}


class SearchSpace(Model):
    """What a sweep searches; see the module's text for the file."""

    recipe: dict[str, Any] = Field(default={})
    search: dict[str, Domain]
    first: list[dict[str, Any]] = Field(default=[])

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
        self._combinations()
        self._as_held()
        for point in self.first:
            self.parameters_of(point)
            recipe_from({**self.recipe, **point})
        return self

    def _combinations(self) -> None:
        """Build a recipe of each two names' values, with the others at their first: each can be sampled, so it must be legal."""
        extremes = {name: domain.extremes() for name, domain in self.search.items()}
        base = self.recipe | {name: values[0] for name, values in extremes.items()}
        for name, values in extremes.items():
            for value in values:
                recipe_from({**base, name: value})
        for (a, a_values), (b, b_values) in itertools.combinations(extremes.items(), 2):
            for a_value, b_value in itertools.product(a_values, b_values):
                recipe_from({**base, a: a_value, b: b_value})

    def _as_held(self) -> None:
        """See that a recipe holds what is drawn as it is drawn: by that value Optuna knows the trial again."""
        base = self.recipe | {name: domain.extremes()[0] for name, domain in self.search.items()}
        for name, domain in self.domains().items():
            values = [] if isinstance(self.search.get(name), ScheduleChoice) else domain.drawn()
            for value in values:
                held = _held(base, name, value)
                if value is not None and (held != value or isinstance(held, str) != isinstance(value, str)):
                    raise ValueError(f"{name}: a recipe takes {value!r} as {held!r}: write it so")
            if isinstance(domain, Range) and domain.integers and isinstance(_held(base, name, domain.low), float):
                raise ValueError(
                    f"{name} is a real number, but from {domain.low} to {domain.high} only integers are drawn: write "
                    f"{float(domain.low)} and {float(domain.high)}"
                )

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

    def domains(self) -> dict[str, Choice | Range]:
        """What is searched under each of Optuna's names, a schedule's kind and the values of each kind among them."""
        found: dict[str, Choice | Range] = {}
        for name, domain in self.search.items():
            if isinstance(domain, ScheduleChoice):
                found[name] = Choice(choice=list(domain.choice))
                for kind, values in domain.choice.items():
                    found |= {f"{name}.{kind}.{n}": inner for n, inner in values.items()}
            else:
                found[name] = domain
        return found

    def parameters_in(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """What Optuna would have sampled for a recipe of this space or of one that this one widens, by its names."""
        found: dict[str, Any] = {}
        for name, domain in self.search.items():
            value = recipe[name]
            if isinstance(domain, ScheduleChoice):
                kind = found[name] = value["kind"]
                found |= {f"{name}.{kind}.{n}": value[n] for n in domain.choice[kind]}
            else:
                found[name] = value
        return found

    def defaults(self) -> Recipe:
        """The recipe before anything is sampled; what is searched stands at the first of its values."""
        first = {name: domain.extremes()[0] for name, domain in self.search.items()}
        return recipe_from({**self.recipe, **first})

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

    def first_untried(self, tried: list[dict[str, Any]]) -> list[dict[str, Scalar]]:
        """The points of `first`, in Optuna's names, that no trial with one of these parameters has tried."""
        points = [self.parameters_of(point) for point in self.first]
        return [point for point in points if not any(point.items() <= parameters.items() for parameters in tried)]

    def with_absolute_weights(self) -> SearchSpace:
        """This space with a weights file's path made absolute: workers run in folders of their own."""
        weights = self.recipe.get("weights")
        if not isinstance(weights, str) or weights in ("pretrained", "random"):
            return self
        return self.model_copy(update={"recipe": {**self.recipe, "weights": storage.absolute(weights)}})

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


def _held(base: dict[str, Any], name: str, value: Any) -> Any:
    """What a recipe makes of a value under one of Optuna's names."""
    if not name.startswith("schedule."):
        return recipe_from({**base, name: value}).model_dump(mode="json")[name]
    _, kind, inner = name.split(".")
    return recipe_from({**base, "schedule": {"kind": kind, inner: value}}).model_dump(mode="json")["schedule"][inner]


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2: PyYAML follows 1.1, to which 1e-4 is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


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
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"search space {file} is not YAML ({reason}): mend it") from error
    return build_space(content, f"search space {file}")
