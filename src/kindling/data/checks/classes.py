"""Numbers of samples by class, or the distribution of numeric targets, in each split."""

from collections.abc import Iterator

import numpy as np

from kindling.data.checks.report import Finding
from kindling.data.checks.samples import SampleTable
from kindling.utils.text import count_part

MIN_SAMPLES = 5  # of a class in training
RARE = 0.1  # of the samples that a class would have if all had the same number
RARE_FIX = "add samples, merge classes, or weight them with --model.weighted_loss true"


def count_classes(samples: SampleTable) -> dict[str, dict[str, int]]:
    """Return the number of samples of each split by class; empty if there are no classes."""
    if not samples.classes or samples.targets is None:
        return {}
    counts = {}
    for split in (splits := dict.fromkeys(samples.splits)):
        targets = samples.targets[samples.splits == split]
        counts[split] = targets.sum(0) if targets.ndim > 1 else np.bincount(targets, minlength=len(samples.classes))
    return {str(name): {s: int(counts[s][label]) for s in splits} for label, name in enumerate(samples.classes)}


def describe_numbers(samples: SampleTable) -> dict[str, dict[str, float]]:
    """Return lowest and highest target, quartiles and mean by split; empty if the targets are not numbers."""
    if samples.classes or samples.targets is None or not len(samples.targets):
        return {}
    described = {}
    for split in dict.fromkeys(samples.splits):
        numbers = samples.targets[samples.splits == split].astype(float)
        quantiles = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]).tolist()
        described[split] = dict(zip(("min", "25%", "median", "75%", "max"), quantiles, strict=True))
        described[split]["mean"] = float(numbers.mean())
    return described


def find_rare_classes(counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    """Yield findings about classes with few training samples, and with none in a split."""
    train = {name: splits.get("train", 0) for name, splits in counts.items()}
    usual = sum(train.values()) / max(len(train), 1)
    if rare := {name: number for name, number in train.items() if number < max(MIN_SAMPLES, RARE * usual)}:
        where = [f"{name} ({number:,})" for name, number in sorted(rare.items(), key=lambda one: one[1])]
        message = count_part(len(rare), len(train), "classes", "has", "have") + " few training samples"
        yield Finding("classes", "warning", message, where, RARE_FIX)
    for split in ("val", "test"):
        absent = [name for name, splits in counts.items() if splits.get(split) == 0]
        if absent:
            yield Finding(
                "classes",
                "warning",
                count_part(len(absent), len(counts), "classes", "has", "have") + f" no samples in {split}",
                absent,
                f"add samples, or hold out more with --data.{split}_split",
            )
