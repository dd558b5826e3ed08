"""The description of a prepared data set, `kindling.json`: splits, shards with checksums, classes and statistics."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Self

from kindling import __version__
from kindling.data.streaming.encoding import find_unsafe

FILE = "kindling.json"
UNFINISHED = ".unfinished"  # folder of the records of finished shards, removed when all are finished
FORMAT = 1  # of the file; raised when a change makes older versions misread it
NAME = re.compile(r"(train|val|test)/[\w.-]+")  # of a file: never outside of the folder


@dataclass(frozen=True)
class StoredFile:
    """A file of a prepared data set.

    Attributes:
        file: Path relative to the folder, such as `train/chunk-0-0.bin`.
        bytes: Size.
        sha256: Checksum of the content, as `sha256sum` prints it.
        samples: Number of samples, in a shard.

    Raises:
        ValueError: If the file is not in the folder of a split.
    """

    file: str
    bytes: int
    sha256: str
    samples: int = 0

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.file):
            raise ValueError(f"{self.file!r} is not a file of a split")


@dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared data set.

    Attributes:
        shards: The shards in order, as LitData writes them.
        targets: Target of each sample, a NumPy file.
        names: For each sample a line of JSON with its name, its further keys and, of a table, its row; None if samples
            have only an index.
    """

    shards: list[StoredFile]
    targets: StoredFile
    names: StoredFile | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return a split from the result of `asdict` after JSON."""
        names = values.get("names")
        return cls(
            [StoredFile(**shard) for shard in values["shards"]],
            StoredFile(**values["targets"]),
            StoredFile(**names) if names else None,
        )

    @property
    def files(self) -> list[StoredFile]:
        """All files of the split."""
        return [*self.shards, self.targets, *([self.names] if self.names else [])]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(shard.samples for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """Description of a prepared data set.

    Attributes:
        kind: What a sample is: an image, an encoded row of a table, or any pair of an input and a target.
        source: Name of the folder, file or data module that the samples came from.
        size: Height and width of stored pixels; None if images are stored as their files.
        task: Task of the targets; None if it is unknown.
        input_shape: Shape of an input as the model receives it; None if it is unknown.
        class_names: Names of the classes, in the order of the outputs.
        class_counts: Number of training samples of each class.
        mean: Mean of the training inputs per channel or feature.
        std: Their standard deviation.
        fitted: What the data module learned from the training split, see `BaseDataModule.fitted`.
        encoding: How LitData encodes a sample.
        splits: The splits by name.
        broken: Number of samples left out because they can't be read.
        broken_examples: Some of them by name, with the reason.
        plan: Hash of the samples and the options of the preparation.
        kindling: Version that wrote the file.
        format: Version of the file format.
    """

    kind: str
    source: str
    size: int | None
    task: str | None
    input_shape: tuple[int, ...] | None
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fitted: dict[str, Any]
    encoding: dict[str, Any]
    splits: dict[str, PreparedSplit]
    broken: int = 0
    broken_examples: dict[str, str] = field(default_factory=dict)
    plan: str = ""
    kindling: str = __version__
    format: int = FORMAT

    @cached_property
    def files(self) -> dict[str, int]:
        """Number of each file by its path."""
        paths = [stored.file for split in self.splits.values() for stored in split.files]
        return {path: number for number, path in enumerate(paths)}

    @property
    def digest(self) -> str:
        """Hash of all samples and targets in their splits."""
        files = [(name, each.sha256) for name, split in self.splits.items() for each in (*split.shards, split.targets)]
        return sha256(repr(files).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, content: bytes, source: str) -> Self:
        """Return the description in a file; `source` names it in messages.

        Raises:
            ValueError: If the file is damaged, a later version wrote it, or reading the samples could run code.
        """
        try:
            values = json.loads(content)
            version = values["format"]
            if version == FORMAT:
                values["splits"] = {name: PreparedSplit.from_dict(each) for name, each in values["splits"].items()}
                for name in ("input_shape", "class_names", "class_counts", "mean", "std"):
                    values[name] = None if values[name] is None else tuple(values[name])
                manifest, unsafe = cls(**values), find_unsafe(values["encoding"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{source} is damaged: delete the folder and run kindling prepare again") from error
        if version != FORMAT:
            raise ValueError(
                f"{source} has format {version}: update Kindling, or delete the folder and run kindling prepare again"
            )
        if unsafe:
            raise ValueError(
                f"{source} describes samples that contain {unsafe}, which could run code when they are read: get the "
                "original data, and run kindling prepare"
            )
        return manifest
