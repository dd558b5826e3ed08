"""Out-of-fold predictions: each sample of a cross-validation predicted by the run that did not train on it."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from kindling.data import BaseDataModule
from kindling.data.datasets import ArrayDataset
from kindling.data.images.trained import TRAINED
from kindling.evaluation.attribution import attribution_maps
from kindling.evaluation.fold_outputs import Fold, join_outputs, write_single_split
from kindling.evaluation.report import FoldResults, write_report
from kindling.models import (
    ClassificationTask,
    EnsembleClassifier,
    EnsembleMultiLabelClassifier,
    EnsembleRegressor,
)
from kindling.models.data_arguments import Task
from kindling.models.ensemble import PredictionAveraging
from kindling.models.many_classes import TopClasses
from kindling.models.metrics import ClassCountMetric
from kindling.runs.checkpoints import read_checkpoint
from kindling.runs.repeats import OUTPUTS
from kindling.training.output_collector import Outputs
from kindling.utils.decision_threshold import DecisionThreshold, predicted_classes
from kindling.utils.text import join_names, program_name

BATCH_SIZE = 64  # samples of very many classes
ENSEMBLES: dict[Task, Any] = {
    "classification": EnsembleClassifier,
    "regression": EnsembleRegressor,
    "multilabel": EnsembleMultiLabelClassifier,
}


class FoldRouting(nn.Module):
    """Returns for each sample the output of the member that did not train on it.

    The last of the inputs (N, F + 1) is the number of that member.

    Args:
        averaging: The members.
    """

    def __init__(self, averaging: PredictionAveraging) -> None:
        super().__init__()
        self.averaging = averaging

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.averaging.outputs(inputs[:, :-1])  # (members, N, ...)
        return outputs[inputs[:, -1].long(), torch.arange(len(inputs), device=inputs.device)]


class OutOfFold:
    """The tests of all folds together.

    Args:
        runs: The run of each fold, by its name; each must contain `test_outputs.pt`.

    Raises:
        ValueError: If the data has changed since.
    """

    def __init__(self, runs: Mapping[str, Path]) -> None:
        paths = (run / "checkpoints" / "best.ckpt" for run in runs.values())
        self.checkpoints = [str(path if path.exists() else path.with_name("last.ckpt")) for path in paths]
        self.data = _all_samples([*runs.values()], self.checkpoints)
        classes = {
            name: getattr(self.data, name) for name in ("num_classes", "class_names") if hasattr(self.data, name)
        }
        kind = ENSEMBLES[self.data.task]  # type: ignore[attr-defined]
        self.model: Any = kind(checkpoints=self.checkpoints, input_shape=self.data.input_shape, **classes)
        self.members: list[Any] = [*self.model.network.members]
        tests = [Fold(**torch.load(run / OUTPUTS, weights_only=True)) for run in runs.values()]
        places = {str(row): place for place, row in enumerate(self.data.tested_rows())}
        order = torch.tensor([places.get(row, -1) for test in tests for row in test.rows])
        if sorted(order.tolist()) != [*range(len(places))]:
            raise ValueError(
                f"the samples of {self.data.origin} changed since the folds were tested: "
                f"run `{program_name()} repeat` again"
            )
        numbers = torch.cat([torch.full((len(test.targets),), number) for number, test in enumerate(tests)])
        back = order.argsort()
        self.outputs: Outputs = join_outputs([test.outputs for test in tests], back)
        self.targets = torch.cat([test.targets for test in tests])[back]
        self.folds = numbers[back]  # index of the fold of each sample, (N,)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of all samples, by name."""
        metrics = self.members[0].metrics_of("test")
        for number, member in enumerate(self.members):
            for metric in metrics.modules():
                if isinstance(metric, ClassCountMetric):
                    metric.threshold = member.threshold
            size = BATCH_SIZE if isinstance(self.outputs, TopClasses) else len(self.folds)
            for rows in torch.split((self.folds == number).nonzero().squeeze(1), size):
                metrics.update(self._log_probabilities(rows), self.targets[rows])
        values = {"loss": self.loss(torch.arange(len(self.folds))), **metrics.compute()}
        return {f"test/{name}": float(value) for name, value in values.items()}

    def _log_probabilities(self, rows: Tensor) -> Tensor:
        """Return the outputs (n, ...) of some samples by index (n,); minus infinity for classes that were not kept."""
        if isinstance(self.outputs, TopClasses):
            return self.outputs.select(rows).log_probabilities(self.targets[rows], self.model.num_classes)
        return self.outputs[rows]

    def loss(self, rows: Tensor) -> Tensor:
        """Return the mean loss of the samples at some indices (n,), each by the model of its fold."""
        if isinstance(self.outputs, TopClasses):
            return self.outputs.losses[rows].mean()
        total = torch.tensor(0.0)
        for number in sorted({*self.folds[rows].tolist()}):
            part = rows[self.folds[rows] == number]
            loss = self.members[number].loss_of_test_outputs(self.outputs[part], self.targets[part])
            total = total + loss * len(part)
        return total / len(rows)

    @property
    def thresholds(self) -> list[DecisionThreshold]:
        """The decision thresholds of the folds that have one."""
        return [member.threshold for member in self.members if getattr(member, "threshold", None)]

    @property
    def classes(self) -> Tensor | None:
        """The class of each sample by the threshold of its fold, (N,); None if no fold has a threshold."""
        if not self.thresholds:
            return None
        classes = torch.zeros_like(self.targets)
        for number, member in enumerate(self.members):
            rows = self.folds == number
            classes[rows] = predicted_classes(self.outputs[rows].exp(), member.threshold)
        return classes

    @property
    def temperatures(self) -> Tensor | None:
        """The softmax temperature of the fold of each sample, (N, 1); None if no classes are predicted."""
        if not isinstance(self.members[0], ClassificationTask):
            return None
        return torch.tensor([member.softmax_temperature for member in self.members])[self.folds].unsqueeze(1)

    @property
    def threshold(self) -> DecisionThreshold | None:
        """The threshold for new samples: that of all folds, or the best one for the out-of-fold predictions."""
        member = self.members[0]
        if not isinstance(member, ClassificationTask) or isinstance(self.outputs, TopClasses):
            return None
        return member.validation_choices.threshold_for(self.outputs, self.targets)

    def explain(self, rows: Tensor, images: Tensor, weights: Sequence[Tensor], others: Tensor) -> list[Tensor] | None:
        """Return the `attribution_maps` of samples by index (n,), each by the model of its fold."""
        maps = [images.new_zeros(len(rows), *images.shape[2:], dtype=torch.float) for _ in weights]
        for number in sorted({*self.folds[rows].tolist()}):
            of_fold = self.folds[rows] == number
            part = [each[of_fold] for each in weights]
            found = attribution_maps(self.members[number], images[of_fold], part, others)
            if found is None:
                return None
            for total, values in zip(maps, found, strict=True):
                total[of_fold] = values
        return maps

    def write_report(self, folder: Path, command: str) -> Path:
        """Write `report.html` with the command line into a folder, and return its path."""
        note = "Each sample was predicted by the model of the fold that did not train on it."
        if self.thresholds:
            positive = self.model.class_names[self.thresholds[0].positive]
            values = dict.fromkeys(f"{each.value:.4g}" for each in self.thresholds)
            note += f" The models predict {positive} from a probability of {join_names([*values])}."
        network = self.model.network
        if isinstance(self.data.test, ArrayDataset) and self.data.fitted.get("columns") is not None:
            inputs = torch.cat([self.data.test.inputs, self.folds[:, None].float()], dim=1)
            self.data.test = ArrayDataset(inputs, self.targets)
            self.model.network = FoldRouting(network)
        name = type(self.members[0]).__name__
        by_fold = FoldResults(name, self.loss, self.classes, note, self.temperatures, self.explain)
        tested, results = f"{len(self.members)} folds", (self.metrics, self.outputs, self.targets)
        report = write_report(folder, tested, *results, self.model, self.data, command, by_fold)
        self.model.network = network
        return report


def _all_samples(runs: Sequence[Path], checkpoints: Sequence[str]) -> BaseDataModule:
    """Return a data module whose test split holds the samples of all splits of the runs."""
    stored = [read_checkpoint(Path(checkpoint)) for checkpoint in checkpoints]
    arguments = stored[0]["datamodule_hyper_parameters"]
    module, _, name = arguments["_class_path"].rpartition(".")
    plain = {key: value for key, value in arguments.items() if not key.startswith("_") and key != "fold"}
    with TemporaryDirectory() as folder:
        split = Path(folder, "split.csv")
        write_single_split(runs[0] / "split.csv", split, "test")
        data: BaseDataModule = getattr(import_module(module), name)(**plain | {"split": str(split)})
        # Their outputs are stored: if their 16-bit images differ in range, one of them does for the pictures.
        shared = {key: value for key, value in stored[0][name].items() if key == "levels"}
        states = [{key: value for key, value in (each[name] | shared).items() if key != TRAINED} for each in stored]
        data.combine_fitted(states)  # each member predicted the images that it was not trained on
        data.setup("test")
    return data
