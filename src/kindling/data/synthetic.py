"""Synthetic classification data from scikit-learn."""

from typing import Any

import torch
from typing_extensions import override

from kindling.data.classification import ClassificationDataModule
from kindling.data.datamodule import Batch, Split
from kindling.data.splitting import stratified_split
from kindling.utils.hyperparameters import check_range


class SyntheticDataModule(ClassificationDataModule):
    """Clusters of points around the corners of a hypercube: scikit-learn's `make_classification`.

    Args:
        num_samples: Total number of samples; a fifth of them is the test split.
        num_features: Features per sample.
        num_informative: Features that distinguish the classes; the others are linear combinations of them or noise.
        num_classes: Number of classes.
        data_seed: Seed of the samples and of their test split.
        **loading: Batches and validation split, see `BaseDataModule`.
    """

    sample_options = ("num_samples", "num_features", "num_informative", "num_classes", "data_seed")

    def __init__(
        self,
        num_samples: int = 5000,
        num_features: int = 20,
        num_informative: int = 15,
        num_classes: int = 3,
        data_seed: int = 42,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        sizes = {"num_samples": num_samples, "num_features": num_features, "num_informative": num_informative}
        for name, value in {**sizes, "num_classes": num_classes}.items():
            check_range(name, value, 1)
        self.num_samples = num_samples
        self.num_informative = num_informative
        self.data_seed = data_seed
        self.num_classes = num_classes
        self.input_shape = (num_features,)
        self.class_names = tuple(str(label) for label in range(num_classes))

    @override
    def load(self, split: Split) -> Batch:
        from sklearn.datasets import make_classification  # imported here because it takes 2 s

        features, classes = make_classification(
            self.num_samples,
            *self.input_shape,
            n_informative=self.num_informative,
            n_classes=self.num_classes,
            random_state=self.data_seed,
        )
        inputs, labels = torch.from_numpy(features).float(), torch.from_numpy(classes).long()
        train, test = stratified_split(labels, self.num_samples // 5, self.data_seed)
        indices = train if split == "train" else test
        return inputs[indices], labels[indices]
