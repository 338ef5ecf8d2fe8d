"""Search spaces: YAML files with a recipe's defaults, searched values and first configurations.

    recipe: {backbone: tf_efficientnet_lite0, epochs: 6, ...}   # values of every trial
    search:                                                     # fields of the recipe
      num_sub_blocks: {choice: [2, 3, 4, 6]}
      lr: {low: 1.0e-4, high: 3.0e-3, log: true}                # two integers give integers
      schedule:                                                 # each kind has its own values
        choice: {step: {step: {low: 1, high: 3}}, cosine: {}}
    first:                                                      # tried before anything is sampled
      - {num_sub_blocks: 3, lr: 6.0e-4, schedule: {kind: step, step: 2}}

A sampled value is named like `lr`, or `schedule.step.gamma` if it is a schedule's; Optuna has the
same names. Any values can be sampled together, so all combinations must be legal: they are checked
when a space is read, rather than by a trial that fails.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from dfml import storage
from dfml.errors import InvalidInput, one_line
from dfml.recipe import Recipe, recipe_from
from dfml.strict_model import StrictModel
from dfml.yaml_numbers import YAMLError, parse_yaml
from orchestration.search.domains import Choice, Domain, Range, Scalar, ScheduleChoice

if TYPE_CHECKING:
    import optuna

NOT_SEARCHED = {"epochs": "ASHA decides how long a trial runs", "seed": "trials would differ by luck"}


class SearchSpace(StrictModel):
    """A search space; the module's docstring describes its file."""

    recipe: dict[str, Any] = Field(default={})
    search: dict[str, Domain]
    first: list[dict[str, Any]] = Field(default=[])

    @field_validator("search")
    @classmethod
    def _not_empty(cls, search: dict[str, Any]) -> dict[str, Any]:
        if not search:
            raise ValueError("nothing is searched; name at least one value of the recipe")
        return search

    @model_validator(mode="after")
    def _legal(self) -> SearchSpace:
        for name in (*self.search, *self.recipe):
            if name not in Recipe.model_fields:
                raise ValueError(f"unknown name {name!r}; use a name of the recipe: {', '.join(Recipe.model_fields)}")
        for name, reason in NOT_SEARCHED.items():
            if name in self.search:
                raise ValueError(f"{name!r} can't be searched ({reason}); fix it under recipe")
        if both := sorted(set(self.search) & set(self.recipe)):
            raise ValueError(f"{both[0]!r} is both fixed under recipe and searched; remove one of the two")
        for name, domain in self.search.items():
            if isinstance(domain, ScheduleChoice) != (name == "schedule"):
                raise ValueError(
                    f"{name!r}: search a schedule with choice: {{kind: {{values}}}}, and any other value with choice: "
                    "[values] or with low and high"
                )
        self._combinations()
        self._as_held()
        for point in self.first:
            self.parameters_of(point)
            recipe_from({**self.recipe, **point})
        return self

    def _combinations(self) -> None:
        """Check that all pairs of values are legal, with all other names at their first value."""
        extremes = {name: domain.extremes() for name, domain in self.search.items()}
        base = self.recipe | {name: values[0] for name, values in extremes.items()}
        for name, values in extremes.items():
            for value in values:
                recipe_from({**base, name: value})
        for (a, a_values), (b, b_values) in itertools.combinations(extremes.items(), 2):
            for a_value, b_value in itertools.product(a_values, b_values):
                recipe_from({**base, a: a_value, b: b_value})

    def _as_held(self) -> None:
        """Check that `Recipe` returns sampled values unchanged: Optuna matches trials by value."""
        base = self.recipe | {name: domain.extremes()[0] for name, domain in self.search.items()}
        for name, domain in self.domains().items():
            values = [] if isinstance(self.search.get(name), ScheduleChoice) else domain.drawn()
            for value in values:
                held = _held(base, name, value)
                if value is not None and (held != value or isinstance(held, str) != isinstance(value, str)):
                    raise ValueError(f"{name}: a recipe stores {value!r} as {held!r}; write it that way")
            if isinstance(domain, Range) and domain.integers and isinstance(_held(base, name, domain.low), float):
                raise ValueError(
                    f"{name} is a real number, but from {domain.low} to {domain.high} only integers are sampled; write "
                    f"{float(domain.low)} and {float(domain.high)}"
                )

    def suggest(self, trial: optuna.Trial) -> Recipe:
        """Sample a recipe; values of a schedule are sampled only if its kind was."""
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
        """Return the domains by Optuna's names, including a schedule's kind and values."""
        found: dict[str, Choice | Range] = {}
        for name, domain in self.search.items():
            if isinstance(domain, ScheduleChoice):
                found[name] = Choice(choice=list(domain.choice))
                for kind, values in domain.choice.items():
                    found |= {f"{name}.{kind}.{n}": inner for n, inner in values.items()}
            else:
                found[name] = domain
        return found

    def parameters_in(self, recipe: Recipe) -> dict[str, Any]:
        """Return the sampled values, by Optuna's names, of a recipe of this or a narrower space."""
        found: dict[str, Any] = {}
        values = recipe.model_dump(mode="json", include=set(self.search))
        for name, domain in self.search.items():
            value = values[name]
            if isinstance(domain, ScheduleChoice):
                kind = found[name] = value["kind"]
                found |= {f"{name}.{kind}.{n}": value[n] for n in domain.choice[kind]}
            else:
                found[name] = value
        return found

    def defaults(self) -> Recipe:
        """Return the recipe before anything is sampled, with the first value of each domain."""
        first = {name: domain.extremes()[0] for name, domain in self.search.items()}
        return recipe_from({**self.recipe, **first})

    def values_of(self, name: str) -> list[Any]:
        """Return the values that a name may have; empty if it is neither searched nor fixed.

        For a range, these are its integers.
        """
        domain = self.search.get(name)
        if isinstance(domain, Range):
            return list(range(math.ceil(domain.low), math.floor(domain.high) + 1))
        if isinstance(domain, Choice):
            return list(domain.choice)
        return [self.recipe[name]] if name in self.recipe else []

    def parameters_of(self, point: dict[str, Any]) -> dict[str, Scalar]:
        """Return an entry of `first` by Optuna's names.

        Raises:
            InvalidInput: it has a name that isn't searched, or a value outside its domain.
        """
        flat: dict[str, Scalar] = {}
        for name, value in point.items():
            domain = self.search.get(name)
            if domain is None:
                raise InvalidInput(f"first: {name!r} isn't searched; use searched names only: {', '.join(self.search)}")
            if isinstance(domain, ScheduleChoice):
                kind = value.get("kind") if isinstance(value, dict) else None
                if kind not in domain.choice:
                    raise InvalidInput(
                        f"first: schedule {value!r} isn't searched; choose a kind from {', '.join(domain.choice)}"
                    )
                flat[name] = kind
                pairs = [(f"{name}.{kind}.{n}", domain.choice[kind].get(n), v) for n, v in value.items() if n != "kind"]
            else:
                pairs = [(name, domain, value)]
            for full_name, inner, inner_value in pairs:
                if inner is None or inner_value not in inner:
                    raise InvalidInput(
                        f"first: {full_name} = {inner_value!r} is outside the searched values; change one of the two"
                    )
                flat[full_name] = inner_value
        return flat

    def first_untried(self, tried: list[dict[str, Any]]) -> list[dict[str, Scalar]]:
        """Return the entries of `first`, by Optuna's names, that no tried trial has."""
        points = [self.parameters_of(point) for point in self.first]
        return [point for point in points if not any(point.items() <= parameters.items() for parameters in tried)]

    def with_absolute_weights(self) -> SearchSpace:
        """Return this space with absolute paths of weights: workers run in other folders."""
        weights = self.recipe.get("weights")
        if not isinstance(weights, str) or weights in ("pretrained", "random"):
            return self
        return self.model_copy(update={"recipe": {**self.recipe, "weights": storage.absolute(weights)}})

    def fixed(self, values: dict[str, Any], source: str, file: Path) -> SearchSpace:
        """Return this space with values of the recipe fixed by the user.

        Args:
            values: names and values of the recipe.
            source: the source of the values, for messages: "the command line".
            file: the file of this space, for messages.

        Raises:
            InvalidInput: a value is searched, unknown or illegal.
        """
        if both := [name for name in values if name in self.search]:
            raise InvalidInput(f"{both[0]!r} is fixed on {source} and searched in {file}; remove one of the two")
        return build_space({**self.model_dump(exclude_defaults=True), "recipe": {**self.recipe, **values}}, source)


def _held(base: dict[str, Any], name: str, value: Any) -> Any:
    """Return the form that a recipe gives to a value under one of Optuna's names."""
    if not name.startswith("schedule."):
        return recipe_from({**base, name: value}).model_dump(mode="json")[name]
    _, kind, inner = name.split(".")
    return recipe_from({**base, "schedule": {"kind": kind, inner: value}}).model_dump(mode="json")["schedule"][inner]


def build_space(content: Any, source: str) -> SearchSpace:
    """Validate the content of a search-space file.

    Raises:
        InvalidInput: one sentence on the first error, with `source`.
    """
    try:
        return SearchSpace.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"] if part not in ("choice", "range", "schedule", "[key]"))
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{source}: {location + ': ' if location else ''}{reason}") from error


def read_space(file: Path) -> SearchSpace:
    """Read a search-space file.

    Raises:
        InvalidInput: the file is missing, isn't valid YAML, or isn't a legal space.
    """
    if not file.is_file():
        raise InvalidInput(f"search space {file} doesn't exist; name a YAML file such as search_spaces/emoji.yaml")
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise InvalidInput(f"search space {file} isn't valid YAML ({reason}); fix it") from error
    return build_space(content, f"search space {file}")
