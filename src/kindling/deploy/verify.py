"""Compares an exported file with its checkpoint: outputs and speed."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from kindling.deploy.export_wrapper import Compute, ExportWrapper, Outputs
from kindling.models import BaseTask, RegressionTask
from kindling.utils.console import new_table
from kindling.utils.text import format_number

BATCH_SIZES = (1, 2, 7, 64)
TOLERANCE = 1e-4
ROUNDING = 5e-3  # times TOLERANCE is 5e-7: numbers far from 0, such as years, can't agree better in float32
SECONDS = 0.5  # duration of each measurement
ADVICE = "try another format"

Arrays = tuple[Any, ...]  # inputs (N, ...): tensors, or the typed values of columns
Differences = dict[int, dict[str, float]]  # by batch size and output


@dataclass(frozen=True)
class RawModel:
    """A model that takes raw samples, which are encoded in Python.

    Attributes:
        wrapper: The model, which takes encoded samples.
        encode: Encodes raw samples.
        compared: Number of outputs to compare, from the first; None for all.
    """

    wrapper: ExportWrapper
    encode: Callable[..., Tensor]
    compared: int | None = None

    @property
    def model(self) -> BaseTask:
        """The trained model."""
        return self.wrapper.model

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return self.wrapper.outputs[: self.compared]

    def __call__(self, *samples: Any) -> Outputs:
        """Return the outputs for raw samples; large batches are split, which takes less memory."""
        by_part = [self.wrapper(part) for part in torch.split(self.encode(*samples), max(BATCH_SIZES))]
        return tuple(torch.cat(parts) for parts in zip(*by_part, strict=True))[: self.compared]


Model = ExportWrapper | RawModel  # what a file is compared with


@dataclass(frozen=True)
class Comparison:
    """Differences and speed of an exported file and its checkpoint.

    Attributes:
        differences: Largest difference of each output, by batch size and name; see `compare_outputs`.
        latency: Median milliseconds at batch size 1: of the checkpoint, and of the file.
        throughput: Samples per second at batch size 64: of the checkpoint, and of the file.
        scale: What the differences are relative to, in words.
        tolerance: The limit of the differences.
    """

    differences: Differences
    latency: tuple[float, float]
    throughput: tuple[float, float]
    scale: str
    tolerance: float

    def table(self, title: str, name: str) -> Table:
        """Return the comparison as a table with a column `name` for the file."""
        table = new_table(title, "", "checkpoint", name, "ratio")
        for size, by_output in self.differences.items():
            lines = "\n".join(f"{output} {value:.1e}" for output, value in by_output.items())
            table.add_row(f"difference, batch {size}", "", lines, "")
        for label, (before, after), digits in (
            ("ms, batch 1", self.latency, 2),
            (f"samples/s, batch {max(BATCH_SIZES)}", self.throughput, 0),
        ):
            table.add_row(label, f"{before:,.{digits}f}", f"{after:,.{digits}f}", f"{after / before:.2f}")
        table.caption = f"differences must not exceed {self.tolerance:g}; {self.scale}"
        return table


@torch.inference_mode()
def compare(
    model: Model,
    compute: Compute,
    samples: Arrays,
    sizes: Sequence[int] = (),
    tolerance: float = TOLERANCE,
    advice: str = ADVICE,
) -> Comparison:
    """Compare the outputs and the speed of a file with those of its model.

    Args:
        model: The model.
        compute: The same from the file.
        samples: Inputs of at least 64 samples.
        sizes: Further batch sizes to compare.
        tolerance: The limit of the differences.
        advice: What to do if it is exceeded.

    Raises:
        ValueError: If an output differs by more than the tolerance.
    """
    differences = compare_outputs(model, compute, samples, sorted({*BATCH_SIZES, *sizes}), tolerance, advice)
    one, many = (time_interleaved(model, compute, first(samples, size)) for size in (1, max(BATCH_SIZES)))
    return Comparison(
        differences,
        (1000 * one[0], 1000 * one[1]),
        (max(BATCH_SIZES) / many[0], max(BATCH_SIZES) / many[1]),
        describe_scale(model),
        tolerance,
    )


@torch.inference_mode()
def compare_outputs(
    model: Model,
    compute: Compute,
    samples: Arrays,
    batch_sizes: Sequence[int],
    tolerance: float = TOLERANCE,
    advice: str = ADVICE,
) -> Differences:
    """Return the largest difference of each output, relative to its scale: see `scale_of`.

    Raises:
        ValueError: If one is above the tolerance, or NaN.
    """
    differences: Differences = {size: {} for size in batch_sizes}
    for size in batch_sizes:
        inputs = first(samples, size)
        for name, expected, found in zip(model.outputs, model(*inputs), compute(*inputs), strict=True):
            difference = (expected.float() - found.float()).abs().max().item() / scale_of(model, expected)
            if not difference <= tolerance:  # NaN, too
                raise ValueError(
                    f"the exported output {name} differs from the checkpoint by {difference:.1e} at batch size {size}, "
                    f"the limit is {tolerance:g}: {advice}"
                )
            differences[size][name] = difference
    return differences


def scale_of(model: Model, expected: Tensor) -> float:
    """Return the scale of an output, to which differences are relative: its largest absolute value, at least 1.

    For regression, where 1 is no natural unit: the largest distance from the mean of the training targets, at least
    their standard deviation.
    """
    largest = expected.abs().max().item()
    if not isinstance(model.model, RegressionTask):
        return max(1.0, largest)
    distance = (expected - model.model.target_mean).abs().max().item()
    return max(model.model.target_std.item(), distance, ROUNDING * largest)


def describe_scale(model: Model) -> str:
    """Return in words what differences are relative to."""
    if not isinstance(model.model, RegressionTask):
        return "of values above 1, relative to the largest"
    return f"relative to the spread of the targets, scale {format_number(model.model.target_std.item())}"


def first(samples: Arrays, size: int) -> Arrays:
    """Return a copy of the first samples: torch.export would store the whole tensor of a slice."""
    return tuple(each[:size].clone() if isinstance(each, Tensor) else each[:size] for each in samples)


def time_interleaved(model: Model, compute: Compute, inputs: Arrays) -> tuple[float, float]:
    """Return the median seconds of both, called in turns so that other load slows both; slow ones only once."""
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < 2 * SECONDS:
        start = time.perf_counter()
        model(*inputs)
        middle = time.perf_counter()
        compute(*inputs)
        times.append((middle - start, time.perf_counter() - middle))
    before, after = zip(*times, strict=True)
    return statistics.median(before), statistics.median(after)
