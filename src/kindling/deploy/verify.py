"""The proof that an exported file computes what its checkpoint does, and how fast."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from kindling.deploy.formats import Compute, Inputs

SIZES = (1, 2, 7, 64)
TOLERANCE = 1e-4  # of probabilities; of logits and numbers, as a share of the largest
SECONDS = 0.5  # of each measurement


@dataclass(frozen=True)
class Proof:
    """What was compared and measured.

    Attributes:
        differences: By batch size, the largest difference of each output: of probabilities, and of logits or numbers
            as a share of the largest.
        latency: Median milliseconds at batch 1: of the checkpoint, and of the file.
        throughput: Samples a second at batch 64: of the checkpoint, and of the file.
    """

    differences: dict[int, list[float]]
    latency: tuple[float, float]
    throughput: tuple[float, float]

    def table(self, title: str, name: str) -> Table:
        """The proof as a table to print and to keep."""
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for column in ("checkpoint", name, "ratio"):
            table.add_column(column, justify="right")
        for size, found in self.differences.items():
            table.add_row(f"difference, batch {size}", "", ", logits ".join(f"{each:.1e}" for each in found), "")
        rows = {"ms, batch 1": (self.latency, 2), f"samples/s, batch {max(SIZES)}": (self.throughput, 0)}
        for what, ((ours, theirs), digits) in rows.items():
            table.add_row(what, f"{ours:,.{digits}f}", f"{theirs:,.{digits}f}", f"{theirs / ours:.2f}")
        table.caption = f"the largest difference may be {TOLERANCE:g} (of logits and numbers, of the largest)"
        return table


@torch.inference_mode()
def compare_outputs(model: Any, compute: Compute, samples: Inputs) -> Proof:
    """Compares what a file computes with its model.

    Args:
        model: Takes raw inputs and gives probabilities and logits, or predictions.
        compute: The same, out of the file.
        samples: Inputs of at least 64 samples.

    Raises:
        ValueError: If they differ by more than the tolerance.
    """
    differences = {size: difference(model, compute, first(samples, size)) for size in SIZES}
    for size, worst in differences.items():
        if not max(worst) <= TOLERANCE:  # NaN is no proof
            raise ValueError(
                f"what was exported differs from the checkpoint by {max(worst):.1e} at batch {size}, more than "
                f"{TOLERANCE:g}: nothing was written"
            )
    one, many = (time_interleaved(model, compute, first(samples, size)) for size in (1, max(SIZES)))
    return Proof(
        differences,
        (1000 * one[0], 1000 * one[1]),
        (max(SIZES) / many[0], max(SIZES) / many[1]),
    )


def first(samples: Inputs, size: int) -> Inputs:
    """Return the inputs of the first samples, without those of the others in memory."""
    return tuple(each[:size].clone() for each in samples)  # torch.export keeps all that a slice is of


def difference(model: Any, compute: Compute, inputs: Inputs) -> list[float]:
    """Return the largest difference of each output, as a share of its largest value where that is more than 1."""
    pairs = ((ours.float(), theirs.float()) for ours, theirs in zip(model(*inputs), compute(*inputs), strict=True))
    return [(ours - theirs).abs().max().item() / max(1.0, ours.abs().max().item()) for ours, theirs in pairs]


def time_interleaved(model: Any, compute: Compute, inputs: Inputs) -> tuple[float, float]:
    """Median seconds of each, called in turns so that what slows one slows the other."""
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < 2 * SECONDS:
        start = time.perf_counter()
        model(*inputs)
        middle = time.perf_counter()
        compute(*inputs)
        times.append((middle - start, time.perf_counter() - middle))
    ours, theirs = zip(*times, strict=True)
    return statistics.median(ours), statistics.median(theirs)
