"""Images of a folder, and checks of their files and pixels."""

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import chain

import numpy as np
import torch

from kindling.data.checks.arrays import are_few, join, thumbnails
from kindling.data.checks.groups import find_groups
from kindling.data.checks.quality import find_faults
from kindling.data.checks.report import Finding
from kindling.data.checks.samples import SampleTable
from kindling.data.datasets import ArrayDataset, batches_of
from kindling.data.images.datamodule import ImageFolderDataModule
from kindling.data.tables.cells import name_cells, read_cells
from kindling.utils.text import count_part

MISSING = "left out: "  # starts the message about rows whose image is missing
COPIES_FIX = "remove all but one of them"
ENLARGED = 2.0  # times, from which on an image is too small
ODD = 2.0  # times the usual ratio of the longer to the shorter side


class FolderImages:
    """The images of a folder, in the order train, val, test.

    Args:
        data: The data module, which has read its training images.
        listed: All image files, broken ones too.
    """

    def __init__(self, data: ImageFolderDataModule, listed: list[str]) -> None:
        self.data, self.listed = data, listed
        data.setup("test")
        by_split = {split: [s for s in data._samples if s.split == split] for split in ("train", "val")}
        self.found = [*by_split["train"], *by_split["val"], *data._tested]
        self.names = [sample.file for sample in self.found]
        self.datasets: list[ArrayDataset] = [data.train, data.val, data.test]

    @cached_property
    def samples(self) -> SampleTable:
        """The images as samples: equal ones have the same file content."""
        digests = np.array([self.data._images.digests[name] for name in self.names])
        inputs = np.unique(digests, return_inverse=True)[1]
        splits = np.array([sample.split for sample in self.found], dtype=object)
        targets = torch.cat([dataset.labels for dataset in self.datasets]).numpy()
        classes = tuple(getattr(self.data, "class_names", ()))
        features = None
        if are_few(len(self.names)):
            features = join([thumbnails(dataset.inputs, len(dataset)) for dataset in self.datasets if len(dataset)])
        return SampleTable(splits, self.names, inputs, targets, classes, None, features)

    def findings(self, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about files and pixels; `notes` say why files are broken, each in a line."""
        if broken := sorted({*self.listed} - {*self.names}):
            reasons = {name: self._reason(name, notes) for name in broken}
            fix = "replace them, or skip them: --data.skip_broken true"
            where = [f"{name}: {reason}" if reason else name for name, reason in reasons.items()]
            yield Finding(
                "broken", "error", f"{len(broken):,} of {len(self.listed):,} images can't be used", where, fix
            )
        for note in notes:
            if re.match(MISSING + r".*\(counted from 0[^)]*\) names ", note):
                fix = "correct the label file, or leave such rows out: --data.skip_broken true"
                yield Finding("broken", "error", note.removeprefix(MISSING), [], fix)
        yield from self._groups()
        yield from self._sizes()
        yield from self._faults()

    def _groups(self) -> Iterator[Finding]:
        """Yield a finding for each group column in a label file, unless groups or times split the images."""
        details, samples = self.data._images.labeled.details, self.samples
        if details is None or self.data.groups or self.data.time or samples.codes is None:
            return
        index = {sample.file: row for row, sample in enumerate(self.data._images.listed)}
        rows = [index[name] for name in self.names]
        columns = {name: name_cells(read_cells(details[name].iloc[rows])) for name in details}
        yield from find_groups(columns, samples.codes, samples.splits).values()

    def _reason(self, name: str, notes: list[str]) -> str:
        start = f"{self.data.data_dir / name}: "
        return next((note.removeprefix(start) for note in notes if note.startswith(start)), "")

    def _sizes(self) -> Iterator[Finding]:
        """Yield findings about images that are small, or far from a square."""
        size = self.data.input_shape[-1]
        known = {name: self.data._images.infos[name] for name in self.names}
        sides = {name: info.side or 0 for name, info in known.items()}
        if small := sorted((name for name in sides if ENLARGED * sides[name] <= size), key=sides.__getitem__):
            typical = int(np.median([*sides.values()]))
            fix = "use larger images" if len(small) < len(sides) / 2 else f"set --data.image_size {typical}"
            what = f"enlarged to {size} pixels, twice the original size or more"
            yield self._warn("small", small, what, fix, [f"{name}: {sides[name]} pixels" for name in small])
        ratios = {name: info.longer / sides[name] for name, info in known.items()}
        usual = float(np.median([*ratios.values()]))
        if odd := sorted((name for name in ratios if ratios[name] > ODD * usual), key=lambda name: -ratios[name]):
            where = [f"{name}: {known[name].longer} x {sides[name]} pixels" for name in odd]
            what = "far longer than the others, and cropped to a square"
            yield self._warn("shape", odd, what, "crop them to the object, or remove them", where)

    def _faults(self) -> Iterator[Finding]:
        """Yield findings about images that are blank, very dark, very bright or blurred, in their order."""
        # All splits at once: which images are blurred in comparison with the others must not depend on the split.
        batches = (batches_of(dataset.inputs, torch.arange(len(dataset))) for dataset in self.datasets if len(dataset))
        for fault, numbers in find_faults(chain.from_iterable(batches)).items():
            names = [self.names[number] for number in numbers]
            check = "blurred" if fault == "blurred" else "blank"
            yield self._warn(check, names, fault, "look at them, and remove those without content", names)

    def _warn(self, check: str, names: list[str], what: str, fix: str, where: list[str]) -> Finding:
        """Return a warning about some of the images."""
        message = count_part(len(names), len(self.names), "images", "is", "are") + f" {what}"
        return Finding(check, "warning", message, where, fix, [(name,) for name in names])
