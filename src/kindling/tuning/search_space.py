"""Search spaces: the options that `kindling tune` varies, and their possible values."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from kindling.utils.errors import UsageError
from kindling.utils.text import join_names, shorten, suggest

RANGE_KEYS = ("low", "high", "log", "step")
LAYOUT = "a list of choices, or {low: 1, high: 9} with log: true or a step"
IN_LOSS = ("model.label_smoothing", "model.loss_function", "model.weighted_loss")  # options that change the loss itself
# What must be the same in all trials; with other samples, the best trial would be the one with the easiest ones.
SAMPLES = (
    "path",
    "data_dir",
    "labels",
    "target",
    "split",
    "val_split",
    "test_split",
    "split_seed",
    "test_path",
    "fold",
)
FIXED = (
    *(f"data.{name}" for name in (*SAMPLES, "groups", "time", "source", "num_samples")),
    *(
        "data",
        "checkpoint",
        "run_name",
        "test_after_fit",
        "seed_everything",
        "ckpt_path",
        "config",
        "trainer.fast_dev_run",
    ),
)
Value = str | int | float | bool | None
Distribution = CategoricalDistribution | IntDistribution | FloatDistribution


@dataclass(frozen=True)
class SearchSpace:
    """Options with their possible values.

    Attributes:
        distributions: Optuna's distribution of each option, by its dotted name. Choices that are not plain values, such
            as lists, are stored as JSON.
    """

    distributions: Mapping[str, Distribution]

    @classmethod
    def parse(cls, content: Mapping[str, Any], source: object) -> Self:
        """Read the search space in a file: for each option a list of choices, or a range with low, high, log or step.

        Raises:
            UsageError: If it is empty, an option can't be searched, or its values are invalid.
        """
        if not content:
            raise UsageError(f"{source} is empty: write OPTION: {LAYOUT}")
        found = {}
        for name, values in content.items():
            if fixed := [
                option for option in FIXED if name == option or (option != "data" and name.startswith(f"{option}."))
            ]:
                raise UsageError(f"{source}: {name} can't be searched: {fixed[0]} must be the same in all trials")
            try:
                found[name] = _distribution(values)
            except ValueError as error:
                raise UsageError(f"{source}: {name}: {error}") from error
        return cls(found)

    def check_metric(self, monitor: str, source: object) -> None:
        """Raise UsageError if trials can't be compared by a metric, because the options change what it means."""
        changed = [name for name in self.distributions if name in IN_LOSS]
        if changed and monitor.endswith("loss"):
            raise UsageError(
                f"{source}: {changed[0]} changes {monitor} itself, so trials can't be compared by it: choose another "
                "metric, as in --checkpoint.monitor val/accuracy"
            )

    def suggest(self, trial: Trial) -> None:
        """Let a trial choose its values; those that it has already are kept."""
        for name, kind in self.distributions.items():
            if isinstance(kind, CategoricalDistribution):
                trial.suggest_categorical(name, kind.choices)
            elif isinstance(kind, IntDistribution):
                trial.suggest_int(name, kind.low, kind.high, step=kind.step, log=kind.log)
            else:
                trial.suggest_float(name, kind.low, kind.high, step=kind.step, log=kind.log)

    def options(self, values: Mapping[str, Any]) -> list[str]:
        """Return the options of `fit` that set these values, those of classes first."""
        names = sorted(values, key=lambda name: (name.count("."), name))
        return [f"--{name}={_as_typed(values[name])}" for name in names]

    def describe(self) -> dict[str, str]:
        """Return each option with its values as text."""
        return {name: repr(distribution) for name, distribution in self.distributions.items()}

    def probes(self) -> Iterator[dict[str, Value]]:
        """Yield a few points that together contain each choice, and both ends of each range."""
        columns = {name: _extremes(distribution) for name, distribution in self.distributions.items()}
        for row in range(max(map(len, columns.values()))):
            yield {name: column[min(row, len(column) - 1)] for name, column in columns.items()}

    def point_of(self, settings: Mapping[str, Any]) -> dict[str, Value] | None:
        """Return the point that the result of `flatten_config` describes; None if it is outside of the search space."""
        values = {name: _as_plain(settings.get(name)) for name in self.distributions}
        found = {name: _find(distribution, values[name]) for name, distribution in self.distributions.items()}
        return {name: place[0] for name, place in found.items()} if all(found.values()) else None


def _distribution(values: Any) -> Distribution:
    """Return the distribution of a list of choices or a range; raise ValueError if it is invalid."""
    if isinstance(values, list):
        choices = [_as_plain(value) for value in values]
        if len(set(map(_as_typed, choices))) < max(len(choices), 2):
            raise ValueError("must have at least two different choices")
        return CategoricalDistribution(choices)
    if not isinstance(values, dict):
        raise ValueError(f"must be {LAYOUT}, got {shorten(repr(values), 60)}")
    if values and not any(key in RANGE_KEYS for key in values):
        raise ValueError(f"write its options with dots, as in model.dropout, got {join_names([*values], 3)}")
    if unknown := [key for key in values if key not in RANGE_KEYS]:
        near = suggest(str(unknown[0]), RANGE_KEYS) or f": choose from {join_names(RANGE_KEYS)}"
        raise ValueError(f"there is no {unknown[0]}{near}")
    if missing := [key for key in ("low", "high") if key not in values]:
        raise ValueError(f"{missing[0]} is missing: a range is {LAYOUT.partition(', or ')[2]}")
    log, numbers = values.get("log", False), {key: _as_number(key, values[key]) for key in values if key != "log"}
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    # Optuna checks the rest, but would take these with another meaning.
    if type(log) is not bool:
        raise ValueError(f"log must be true or false, got {log}")
    if not low < high:
        raise ValueError(f"low must be less than high, got {low} and {high}")
    if step and not math.isclose((high - low) / step, round((high - low) / step)):
        raise ValueError(f"high must be low plus a multiple of step, got {low}, {high} and {step}")
    kind: Any = IntDistribution if all(isinstance(number, int) for number in numbers.values()) else FloatDistribution
    distribution: Distribution = kind(log=log, **numbers)
    return distribution


def _as_number(key: str, value: Any) -> int | float:
    """Return a number; YAML reads 1e-3 as text."""
    try:
        number = value if type(value) is int else float(value) if type(value) in (float, str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{key} must be a number, got {shorten(repr(value), 60)}")
    return number


def _as_plain(value: Any) -> Value:
    """Return a value that Optuna can store: JSON, if it is a list or mapping."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _as_typed(value: Value) -> str:
    """Return a value as one would type it."""
    return value if isinstance(value, str) else json.dumps(value)


def _extremes(distribution: Distribution) -> Sequence[Value]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def _find(distribution: Distribution, value: Value) -> list[Value]:
    """Return a value as a list of one, as the distribution spells it; an empty list if it is outside."""
    if isinstance(distribution, CategoricalDistribution):
        choices = [one for one in distribution.choices if isinstance(one, bool) == isinstance(value, bool)]
        equal = [one for one in choices if one == value]
        classes = [one for one in choices if isinstance(value, str) and value.endswith(f".{one}")]
        return [*equal, *classes][:1]  # torch.optim.AdamW is the choice AdamW
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    steps = (value - distribution.low) / (distribution.step or 1)
    is_on_step = distribution.step is None or math.isclose(steps, round(steps), abs_tol=1e-9)
    return [value] if distribution.low <= value <= distribution.high and is_on_step else []
