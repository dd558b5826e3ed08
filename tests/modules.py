"""LightningModules, data modules and datasets like those of other templates; most know nothing of Kindling."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelF1Score

from kindling import BaseDataModule, BaseTask, ClassificationDataModule, ClassificationTask, RegressionTask


class Segmentation(LightningModule):
    """A fully convolutional network that depends on Lightning only."""

    def __init__(self, num_classes: int, width: int = 4, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))
        self.dropout = nn.Dropout2d(0.2)

    def forward(self, images: Tensor) -> Tensor:
        masks: Tensor = self.network(self.dropout(images))  # (N, classes, H, W)
        return masks

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch["image"]), batch["mask"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        masks = self(batch["image"])
        self.log("val_loss", F.cross_entropy(masks, batch["mask"]))
        self.log("val_iou", (masks.argmax(1) == batch["mask"]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", F.cross_entropy(self(batch["image"]), batch["mask"]))

    def predict_step(self, batch: Any) -> Any:
        return self(batch["image"]).argmax(1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.hparams["lr"])
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)]


class Rows(LightningModule):
    """An autoencoder for rows of 20 numbers, which ignores their classes."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(20, width), nn.Linear(width, 20))

    def training_step(self, batch: Any) -> Tensor:
        return F.mse_loss(self.network(batch[0]), batch[0])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


class Clusters(Rows):
    """An autoencoder whose `num_classes` has nothing to do with the classes of the data."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__(num_classes)


class Shapes(Dataset[Any]):
    """Noise with a mask of its bright pixels, as dictionaries; training samples are flipped at random."""

    def __init__(self, seed: int, augment: bool = False, size: int = 24) -> None:
        self.augment = augment
        noise = torch.Generator().manual_seed(seed)
        self.images = torch.rand(size, 1, 8, 8, generator=noise)
        self.masks = (self.images[:, 0] > 0.5).long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        flip = self.augment and random.random() < 0.5  # an augmentation with Python's random numbers
        image, mask = self.images[index], self.masks[index]
        return {"image": image.flip(-1), "mask": mask.flip(-1)} if flip else {"image": image, "mask": mask}


class ShapesDataModule(LightningDataModule):
    """A data module that depends on Lightning only."""

    num_classes = 2

    def __init__(self, batch_size: int = 4, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size, self.num_workers = batch_size, num_workers

    def train_dataloader(self) -> Any:
        return DataLoader(
            Shapes(0, augment=True), batch_size=self.batch_size, shuffle=True, num_workers=self.num_workers
        )

    def val_dataloader(self) -> Any:
        return DataLoader(Shapes(1), batch_size=self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(Shapes(2), batch_size=self.batch_size)

    def predict_dataloader(self) -> Any:
        return DataLoader(Shapes(2), batch_size=self.batch_size)


class ShapesWithoutPredict(ShapesDataModule):
    """A data module without samples to predict."""

    predict_dataloader = LightningDataModule.predict_dataloader


class PersistentShapes(ShapesDataModule):
    """Data loaders with persistent workers."""

    def train_dataloader(self) -> Any:
        dataset = Shapes(0, augment=True)
        return DataLoader(dataset, batch_size=4, shuffle=True, num_workers=1, persistent_workers=True)


class GAN(LightningModule):
    """A GAN: manual optimization with two optimizers, without validation and test."""

    def __init__(self, latent: int = 2, lr: float = 0.01) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.latent, self.lr = latent, lr
        self.generator = nn.Sequential(nn.Linear(latent, 8), nn.ReLU(), nn.Linear(8, 2))
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0]
        of_generator, of_critic = self.optimizers()  # type: ignore[attr-defined]
        fake = self.generator(torch.randn(len(real), self.latent, device=self.device))
        critic_loss = F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean()
        of_critic.zero_grad()
        self.manual_backward(critic_loss)
        of_critic.step()
        generator_loss = F.softplus(-self.critic(fake)).mean()
        of_generator.zero_grad()
        self.manual_backward(generator_loss)
        of_generator.step()
        self.log_dict({"critic_loss": critic_loss, "generator_loss": generator_loss}, on_epoch=True, on_step=False)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), self.lr) for part in (self.generator, self.critic)]


class Points(Dataset[Any]):
    """Points on a circle, as a tuple of one."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        angle = torch.tensor(index * 0.157)
        return (torch.stack([angle.cos(), angle.sin()]),)


class PointsDataModule(LightningDataModule):
    """Training data only."""

    def train_dataloader(self) -> Any:
        return DataLoader(Points(), batch_size=8, shuffle=True)


class OwnPointsDataModule(BaseDataModule):
    """The same points through Kindling's loaders, which resume within an epoch."""

    def load(self, split: str) -> Any:
        return Points()


class LanguageModel(LightningModule):
    """A language model that predicts the next letter."""

    def __init__(self, vocabulary: int = 16, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)
        self.example_input_array = torch.zeros(1, 6, dtype=torch.long)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(self.embedding(tokens))[0])  # (N, T, vocabulary)
        return logits

    def training_step(self, batch: Any) -> Tensor:
        loss = F.cross_entropy(self(batch[0]).transpose(1, 2), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("valid_loss", F.cross_entropy(self(batch[0]).transpose(1, 2), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


class TextDataModule(BaseDataModule):
    """Windows of a text, as a plain dataset with a collate function for windows of any length."""

    def load(self, split: str) -> Any:
        return Windows(200 if split == "train" else 40)

    @staticmethod
    def collate(samples: Sequence[Tensor]) -> Any:
        shortest = min(map(len, samples))
        tokens = torch.stack([sample[:shortest] for sample in samples])
        return tokens[:, :-1], tokens[:, 1:]


class Windows(Dataset[Tensor]):
    """Windows of a counting text, of random length."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        return (torch.arange(5 + int(torch.randint(3, ()))) + index) % 16


class MultiLabel(BaseTask):
    """Several labels for one sample."""

    def __init__(self, num_labels: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_labels = num_labels
        self.network = nn.Linear(self.input_shape[0], num_labels)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"f1": MultilabelF1Score(self.num_labels)})

    def to_prediction(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


class MultiLabelDataModule(BaseDataModule):
    """Two tensors, the targets of shape (N, labels)."""

    input_shape = (4,)

    def load(self, split: str) -> Any:
        inputs = torch.randn(100, 4, generator=torch.Generator().manual_seed(len(split)))
        return inputs, (inputs[:, :3] > 0).float()


class OneLabel(ClassificationTask):
    """A classifier for data that may have several labels per sample."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(num_classes=3, **kwargs)
        self.network = nn.Linear(4, 3)


class MultiLabelWithIntegers(MultiLabelDataModule):
    """The same with integers, through a dataset that does not expose its targets."""

    def load(self, split: str) -> Any:
        inputs, targets = super().load(split)
        return TensorDataset(inputs, targets.long())


class TwoInputs(ClassificationTask):
    """A network with two inputs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = Added(self.num_classes)
        self.example_input_array = (torch.zeros(1, 1, 4, 4), torch.zeros(1, 3))


class NamedInputs(ClassificationTask):
    """A network with two inputs by name, one of which has a lazy layer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = Added(self.num_classes)
        self.network.row = nn.LazyLinear(self.num_classes)
        self.example_input_array = {"row": torch.zeros(1, 3), "image": torch.zeros(1, 1, 4, 4)}


class OwnForward(ClassificationTask):
    """A task with layers and its own `forward` instead of a network."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden, self.head = nn.LazyLinear(8), nn.Linear(8, self.num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.normalize(inputs)).relu())
        return logits


class OwnForwardOfTwo(TwoInputs):
    """The same with two separate inputs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.added = self.network
        del self.network

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        logits: Tensor = self.added(image, row)
        return logits


class PackedForward(OwnForwardOfTwo):
    """The same with both inputs in one argument, and without an example."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.example_input_array = None

    def forward(self, inputs: Any) -> Tensor:  # type: ignore[override]
        logits: Tensor = self.added(*inputs)
        return logits


class Networkless(RegressionTask):
    """Layers without a `forward`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head = nn.Linear(4, 1)


class UnknownInputs(ClassificationTask):
    """A network with two inputs of unknown shape."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = Added(self.num_classes)


class TwoOutputs(BaseTask):
    """Predicts a mean and a spread for each of two targets."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Linear(4, 4)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return F.mse_loss(outputs[:, :3], targets)

    def to_prediction(self, outputs: Any) -> Any:
        return {"mean": outputs[:, :2], "spread": outputs[:, 2:].exp()}


class Joined(nn.Module):
    """Concatenates any number of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(19, 3)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        outputs: Tensor = self.layer(torch.cat([each.flatten(1) for each in (first, *others)], dim=1))
        return outputs


class NestedOutputs(BaseTask):
    """A network with any number of inputs, and predictions that are nested."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = Joined()
        self.example_input_array = (torch.zeros(1, 1, 4, 4), torch.zeros(1, 3))

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def to_prediction(self, outputs: Any) -> Any:
        return {"mean": outputs, "bounds": {"low": outputs - 1, "high": outputs + 1}, "rest": [outputs, outputs**2]}


class Added(nn.Module):
    """Adds the features of an image and of a row."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.image, self.row = nn.Linear(16, num_classes), nn.Linear(3, num_classes)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        logits: Tensor = self.image(image.flatten(1)) + self.row(row)
        return logits


class TwoInputsDataModule(ClassificationDataModule):
    """Samples ((image, row), label)."""

    num_classes, class_names = 2, ("low", "high")

    def load(self, split: str) -> Any:
        return Pairs(60, len(split))


class NamedInputsDataModule(TwoInputsDataModule):
    """Samples ({"row": row, "image": image}, label)."""

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        (image, row), labels = default_collate(samples)
        return {"row": row, "image": image}, labels


class TriplesDataModule(TwoInputsDataModule):
    """Samples (image, row, label), as in other templates."""

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        (image, row), labels = default_collate(samples)
        return image, row, labels


class DictionariesDataModule(TwoInputsDataModule):
    """Samples {"image": image, "label": label}."""

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        (image, _), labels = default_collate(samples)
        return {"image": image, "label": labels}


class Pairs(Dataset[Any]):
    """An image, a row, and whether their sum is positive."""

    def __init__(self, size: int, seed: int) -> None:
        noise = torch.Generator().manual_seed(seed)
        self.images, self.rows = torch.randn(size, 1, 4, 4, generator=noise), torch.randn(size, 3, generator=noise)
        self.targets = (self.images.sum((1, 2, 3)) + self.rows.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return (self.images[index], self.rows[index]), self.targets[index]


class Tagger(ClassificationTask):
    """One class at each position: logits (N, classes, L)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Conv1d(2, self.num_classes, 3, padding=1)


class TaggerDataModule(ClassificationDataModule):
    """Sequences (N, 2, L) with a label at each position, (N, L)."""

    num_classes, class_names, input_shape = 2, ("down", "up"), (2, 10)

    def load(self, split: str) -> Any:
        inputs = torch.randn(80, 2, 10, generator=torch.Generator().manual_seed(len(split)))
        return inputs, (inputs[:, 0] > 0).long()


class NetDataModule(LightningDataModule):
    """Stores a module as a hyperparameter, which a checkpoint can't contain."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters({"network": nn.Linear(width, 1)})


class UnstoredModule(LightningModule):
    """Takes a module that it does not store as a hyperparameter, and logs metrics under its own names."""

    def __init__(self, net: nn.Module, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss/val", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])


class Unsplit(Rows):
    """Logs training metrics under names without a split, and a loss that rounding twice would change."""

    def training_step(self, batch: Any) -> Tensor:
        loss = super().training_step(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("acc", 0.25, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 0.51015)  # as a float32 above 0.51015, as a decimal fraction below

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", 0.51015)
        self.log("test_tiny", 0.00001234)


class ReadsImages(Rows):
    """Has neither a `predict_step` nor a `forward`."""

    def training_step(self, batch: Any) -> Tensor:
        return self.network(batch["image"].flatten(1)[:, :20]).square().mean()  # type: ignore[no-any-return]


class Vectors(Dataset[Any]):
    """Vectors and whether their sum is positive; the dataset may expose its labels as `targets`."""

    def __init__(self, tells_targets: bool) -> None:
        self.inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        self.sums = self.inputs.sum(1)
        if tells_targets:
            self.targets = (self.sums > 0).long()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], int(self.sums[index] > 0)


class VectorsDataModule(LightningDataModule):
    """A plain data module that has no attributes for a model."""

    tells_targets = True

    def train_dataloader(self) -> Any:
        return DataLoader(Vectors(self.tells_targets), batch_size=8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(Vectors(self.tells_targets), batch_size=8)

    test_dataloader = val_dataloader


class UnlabeledVectors(VectorsDataModule):
    """Labels are known only sample by sample."""

    tells_targets = False


class TrainerDependentLoader(UnlabeledVectors):
    """A data loader that needs the Trainer."""

    def train_dataloader(self) -> Any:
        return DataLoader(Vectors(False), batch_size=8 * self.trainer.world_size)  # type: ignore[union-attr]


class OwnVectors(ClassificationDataModule):
    """The same dataset in Kindling's data module."""

    def load(self, split: str) -> Any:
        return Vectors(True)


class UnshapedVectors(OwnVectors):
    """Provides the classes, but not the input shape."""

    num_classes, class_names = 2, ("low", "high")


class Unshaped(ClassificationTask):
    """A network that does not need its input shape."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.Linear(4, self.num_classes)


class OwnSums(BaseDataModule):
    """Vectors with their sums as targets."""

    def load(self, split: str) -> Any:
        return Vectors(True).inputs, Vectors(True).sums


class OwnNet(ClassificationTask):
    """A network that needs the number of features."""

    def __init__(self, width: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        (features,) = self.input_shape
        self.network = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, self.num_classes))


class WithLazyLayers(ClassificationTask):
    """A network with lazy layers, which get the number of features from a sample."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = nn.LazyLinear(self.num_classes)


class DictLoaders(LightningDataModule):
    """Named training loaders, and a count of how often they are created."""

    calls = 0

    def train_dataloader(self) -> Any:
        type(self).calls += 1
        return {"first": DataLoader(Points(), batch_size=8), "second": DataLoader(Points(), batch_size=4)}


class ReadsDicts(GAN):
    """Trains on two loaders at once."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch["first"], batch_idx)


class ValidatedPoints(PointsDataModule):
    """Training and validation data."""

    def val_dataloader(self) -> Any:
        return DataLoader(Points(), batch_size=8)


class Stream(IterableDataset[Any]):
    """Samples without a length."""

    def __iter__(self) -> Any:
        return iter([(torch.zeros(4), 0)])


class StreamDataModule(MultiLabelDataModule):
    """Loads a stream, which Kindling's loaders can't index."""

    def load(self, split: str) -> Any:
        return Stream()


class ListDataModule(MultiLabelDataModule):
    """Loads a list of two tensors."""

    def load(self, split: str) -> Any:
        return list(super().load(split))


class OwnNames(MultiLabel):
    """Uses attribute names that a task could use itself, and returns its metrics as a dictionary."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val_loss = nn.BCEWithLogitsLoss()
        self.train_metrics = "mine"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.val_loss(outputs, targets)  # type: ignore[no-any-return]

    def metrics(self) -> Any:
        return {"f1": MultilabelF1Score(self.num_labels)}


class ColumnTargets(MultiLabelDataModule):
    """Numeric targets as a column, (N, 1)."""

    def load(self, split: str) -> Any:
        inputs, targets = super().load(split)
        return inputs, targets[:, :1]


class FlatTargets(MultiLabelDataModule):
    """Numeric targets, (N,)."""

    def load(self, split: str) -> Any:
        inputs, targets = super().load(split)
        return inputs, targets[:, 0]


class Fixed(ClassificationTask):
    """A classifier whose `__init__` takes only its own arguments, and passes fixed values for the others."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(num_classes=2, optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}})
        self.network = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 2))
