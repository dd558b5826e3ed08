"""Findings of the checks of a data module."""

from dataclasses import dataclass, field
from typing import Literal

# Name of each check, by which it can be ignored, and what it looks for.
CHECKS = {
    "leak": "columns that give the target away",
    "copies": "samples that are in more than one split",
    "near-copies": "samples that are nearly the same in more than one split, or have different labels",
    "groups": "an ID column whose rows are in more than one split",
    "labels": "the same sample with different labels, and labels that a model finds implausible",
    "classes": "classes with few training samples, or none in a split",
    "columns": "constant columns, IDs, free text",
    "missing": "columns with mostly missing values",
    "broken": "images that can't be read",
    "blank": "images that are blank, very dark or very bright",
    "blurred": "images that are far less sharp than the others",
    "shape": "images that lose most of their content when they are cropped to a square",
    "small": "images that are enlarged",
    "values": "NaN or infinite values, wrong shapes and labels",
}


@dataclass(frozen=True)
class Finding:
    """A possible fault in the data.

    Attributes:
        check: Name of the check, one of `CHECKS`.
        severity: An error makes results wrong or training fail; a warning may be right.
        message: What is wrong.
        where: The rows or files, the most important first.
        fix: What to do, with the option if there is one.
        samples: The names of the samples in each place of `where`; empty if they are not samples.
    """

    check: str
    severity: Literal["error", "warning"]
    message: str
    where: list[str] = field(default_factory=list)
    fix: str = ""
    samples: list[tuple[str, ...]] = field(default_factory=list)


@dataclass
class DataReport:
    """The contents of a data module, and what its checks found.

    Attributes:
        source: File or folder of the data.
        task: classification, multilabel or regression; None if unknown.
        sizes: Number of samples of each split.
        classes: Number of samples of each split by class; empty if there are no classes.
        targets: Lowest and highest target, quartiles and mean by split; empty if the targets are not numbers.
        levels: The values of 16-bit images that are scaled to 0 and 255; None if they keep all values.
        contents: Further facts by name, such as the number of columns of each kind.
        missing: Number of missing values of each column that has some.
        findings: Possible faults, errors first.
        notes: Messages logged while the data was read.
    """

    source: str
    task: str | None
    sizes: dict[str, int]
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    targets: dict[str, dict[str, float]] = field(default_factory=dict)
    levels: list[int] | None = None
    contents: dict[str, str] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, severity: Literal["error", "warning"]) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)
