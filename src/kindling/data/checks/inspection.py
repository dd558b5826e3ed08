"""Reading of a data module, and all checks that suit it."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from kindling.data.checks import images, tables
from kindling.data.checks.arrays import read_arrays
from kindling.data.checks.classes import count_classes, describe_numbers, find_rare_classes
from kindling.data.checks.copies import find_copies, find_near_copies
from kindling.data.checks.labels import find_contradictions, find_implausible
from kindling.data.checks.report import CHECKS, DataReport
from kindling.data.checks.samples import SampleTable
from kindling.data.datamodule import BaseDataModule
from kindling.data.images.datamodule import ImageFolderDataModule
from kindling.data.tables.datamodule import TableDataModule
from kindling.utils.console import progress
from kindling.utils.text import join_names, suggest

COPIES_FIX = "remove them from one of the splits"
# Beginnings of messages, each with the check whose finding repeats it, with rows or files.
REPEATED = {
    "possible target leakage": "leak",
    "the same image in more than one split": "copies",
    "the same image in more than one": "labels",
    "skipped: ": "broken",
    "val has no": "classes",
    "test has no": "classes",
}


def inspect_data(data: LightningDataModule, ignore: Collection[str] = ()) -> DataReport:
    """Read all splits of a data module and check them.

    Args:
        data: The data module; it must not have read any data.
        ignore: Names of checks whose findings are left out, see `CHECKS`.

    Raises:
        ValueError: If the data can't be read, or there is no such check.
    """
    if unknown := [name for name in ignore if name not in CHECKS]:
        raise ValueError(f"there is no check {unknown[0]}{suggest(unknown[0], CHECKS) or f': {join_names([*CHECKS])}'}")
    with _collected_messages() as notes:
        report, samples, copies_fix = _read(data, notes)
        with progress("comparing samples"):
            report.findings += [
                *find_copies(samples, copies_fix),
                *find_near_copies(samples, copies_fix),
                *find_contradictions(samples),
                *find_implausible(samples),
            ]
    report.sizes = {split: int((samples.splits == split).sum()) for split in dict.fromkeys(samples.splits)}
    report.classes, report.targets = count_classes(samples), describe_numbers(samples)
    report.findings += find_rare_classes(report.classes)
    report.notes = [note for note in dict.fromkeys(notes) if not _is_repeated(note, data, report)]
    kept = [finding for finding in report.findings if finding.check not in ignore]
    order = [*CHECKS]
    report.findings = sorted(kept, key=lambda finding: (finding.severity, order.index(finding.check)))
    return report


def _read(data: LightningDataModule, notes: list[str]) -> tuple[DataReport, SampleTable, str]:
    """Read all splits; return a report with what suits the kind of data, the samples, and the fix for copies."""
    source = data.origin if isinstance(data, BaseDataModule) else type(data).__name__
    report = DataReport(source, None, {})
    if isinstance(data, ImageFolderDataModule):
        data.skip_broken = True  # they are a finding
        data.prepare_data()
        listed = [sample.file for sample in data._images.listed]
        data.setup("fit")
        folder = images.FolderImages(data, listed)
        report.findings += folder.findings(notes)
        report.contents["image size"] = " x ".join(map(str, data.input_shape[1:])) + " pixels"
        report.task, report.levels = data.task, data.fitted["levels"]
        return report, folder.samples, images.COPIES_FIX
    data.prepare_data()
    data.setup("fit")
    if isinstance(data, TableDataModule):
        rows = tables.TableRows(data)
        report.task, report.contents, report.missing = data.task, rows.contents(), rows.missing()
        report.findings += rows.findings(report.missing)
        return report, rows.samples(), tables.COPIES_FIX
    if is_overridden("test_dataloader", data):
        data.setup("test")
    samples, findings = read_arrays(data)
    report.findings += findings
    report.task = getattr(data, "task", None)
    if shape := getattr(data, "input_shape", None):
        report.contents["input shape"] = " x ".join(map(str, shape))
    return report, samples, COPIES_FIX


def _is_repeated(note: str, data: LightningDataModule, report: DataReport) -> bool:
    """Return whether a finding repeats a message."""
    if note.startswith("left out: "):
        return " without " not in note  # no finding mentions rows without a target
    checks = {finding.check for finding in report.findings}
    if "broken" in checks and note.startswith(f"{getattr(data, 'data_dir', '')}/"):
        return True
    return any(note.startswith(start) and check in checks for start, check in REPEATED.items())


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


@contextmanager
def _collected_messages() -> Iterator[list[str]]:
    """Collect the messages of the package instead of printing them."""
    logger, messages = logging.getLogger("kindling"), list[str]()
    handlers, propagate = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [_Collector(messages)], False
    try:
        yield messages
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
