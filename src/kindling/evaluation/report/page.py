"""The HTML page of the report, common to all tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kindling import __version__
from kindling.data import BaseDataModule
from kindling.data.datasets import inputs_of
from kindling.evaluation.attribution import attribution_maps
from kindling.evaluation.multilabel import MultiLabelPredictions
from kindling.evaluation.predictions import Predictions
from kindling.evaluation.regression import RegressionPredictions, Target
from kindling.evaluation.report.classification import classification_sections
from kindling.evaluation.report.columns import column_sections
from kindling.evaluation.report.heat_maps import Explain, without_errors
from kindling.evaluation.report.html import Html, element, join, section
from kindling.evaluation.report.label_errors import label_error_section, save_label_errors
from kindling.evaluation.report.multilabel import multilabel_sections
from kindling.evaluation.report.quality import quality_section
from kindling.evaluation.report.regression import regression_sections
from kindling.evaluation.statistics import random_blocks
from kindling.models import BaseTask, ClassificationTask, MultiLabelTask, RegressionTask
from kindling.models.many_classes import TopClasses
from kindling.models.unfreezing import has_whole_weights
from kindling.runs.text_files import read_text
from kindling.training.output_collector import Outputs
from kindling.utils.files import atomic_write
from kindling.utils.pictures import are_images

COMPARED_IMAGES = 16  # test images whose pixels heat maps compare with


class FoldResults(NamedTuple):
    """Differences of a test of several models, each on its own samples.

    Attributes:
        model: Name of their class.
        loss: Returns the mean loss of the samples at some indices (n,).
        classes: Predicted class of each sample, (N,), if not the same rule decides on all.
        note: Explanation below the title.
        temperatures: The softmax temperature of each sample, (N, 1), if the models have one.
        explain: Computes the heat maps of images, given their indices (n,) and the arguments of `attribution_maps`, if
            not one model predicts all samples.
    """

    model: str
    loss: Callable[[Tensor], Tensor]
    classes: Tensor | None = None
    note: str = ""
    temperatures: Tensor | None = None
    explain: Callable[[Tensor, Tensor, Sequence[Tensor], Tensor], list[Tensor] | None] | None = None


def write_report(
    run: Path,
    tested: str,
    metrics: Mapping[str, float],
    outputs: Outputs,
    targets: Tensor,
    model: ClassificationTask | RegressionTask | MultiLabelTask,
    data: BaseDataModule,
    command: str,
    by_fold: FoldResults | None = None,
    folder: Path | None = None,
) -> Path:
    """Write `report.html` into a folder and return its path; for classes also `label_errors.csv`.

    Args:
        run: The run folder.
        tested: Name of the tested checkpoint, or of what else was tested.
        metrics: The test metrics by name.
        outputs: Log-probabilities for the test samples, shape (N, classes), or the most probable classes of very many;
            predicted values (N,); or logits (N, classes) of a multi-label classifier.
        targets: The true classes or values, shape (N,); or 1 for each class of a sample, shape (N, classes).
        model: The tested model.
        data: The data module.
        command: The full command line.
        by_fold: What depends on the fold of a sample, if a model for each fold was tested.
        folder: Folder of the report, if it is not the run folder.
    """
    folder = folder or run
    found = by_fold or FoldResults(type(model).__name__, lambda rows: mean_loss(model, outputs, targets, rows))
    losses = torch.stack([found.loss(rows) for rows in random_blocks(len(targets))])  # smoothed and weighted
    explain: Explain | None = None
    if has_whole_weights(model._trainer) and are_images(inputs_of(data.test, torch.tensor([0]))):
        maps = found.explain or (lambda rows, *arguments: attribution_maps(model, *arguments))

        def explain_rows(rows: Tensor, images: Tensor, weights: Sequence[Tensor]) -> list[Tensor] | None:
            others = inputs_of(data.test, rows_to_compare(len(targets), rows))
            assert others is not None
            return maps(rows, images, weights, others)

        explain = without_errors(explain_rows)
    wrong: Tensor | None = None
    title = f"Test of {'/'.join(folder.resolve().parts[-2 - (folder != run) :])}"
    about = f"{found.model} on {len(targets):,} test samples of {name_data(data)}"
    about += f" · {tested} · {datetime.now():%d %B %Y, %H:%M} · Kindling {__version__}"
    if isinstance(model, ClassificationTask):
        known = outputs.probabilities if isinstance(outputs, TopClasses) else outputs
        columns = column_sections(model, known, targets, data)
        predictions = Predictions.of(outputs, targets, model.num_classes, model.threshold, found.classes)
        wrong = ~predictions.correct
        temperatures = found.temperatures
        if temperatures is None:
            temperatures = torch.full((len(targets), 1), model.softmax_temperature)
        names = model.class_names
        fits = model.validation_choices.fits_temperature
        sections = classification_sections(
            metrics, predictions, losses, data, names, columns, temperatures, fits, explain
        )
    elif isinstance(model, MultiLabelTask):
        assert isinstance(outputs, Tensor)
        labels = MultiLabelPredictions(model.to_prediction(outputs), targets)
        wrong = labels.mistakes.any(1)
        sections = multilabel_sections(metrics, labels, losses, data, model.class_names, explain)
    else:
        assert isinstance(outputs, Tensor)
        columns = column_sections(model, outputs, targets, data)
        values = RegressionPredictions(outputs, targets, Target.of(data.fitted))
        sections = regression_sections(metrics, values, losses, data, columns, explain)
    lines = [element("p", line, class_="soft") for line in (about, found.note) if line]
    if not isinstance(model, RegressionTask):
        errors = save_label_errors(folder, outputs, targets, model, data)
        suspects = label_error_section(errors, targets, model, data, covers_all=by_fold is not None)
        sections = chain(sections, [section("Likely label errors", suspects)])
    if explain:
        sections = chain(sections, quality_section(data, len(targets), wrong))
    parts = [element("h1", title), *lines, *sections, *_reproduction(run, command)]
    with atomic_write(folder / "report.html") as path:
        path.write_text(page(title, join(parts)), encoding="utf-8")
    return folder / "report.html"


def name_data(data: BaseDataModule) -> str:
    """Return the class of a data module, with the folder or file of its test samples if it has one."""
    name, origin = type(data).__name__, data.tested_origin
    return name if origin == name else f"{name} in {origin}"


def rows_to_compare(number: int, explained: Tensor) -> Tensor:
    """Return random indices of N samples without the explained ones (n,), or of all if too few are left."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    others = order[~torch.isin(order, explained)]
    return (others if len(others) >= COMPARED_IMAGES else order)[:COMPARED_IMAGES]


def mean_loss(model: BaseTask, outputs: Outputs, targets: Tensor, rows: Tensor) -> Tensor:
    """Return the mean loss of the samples at some indices (n,); see `write_report`."""
    if isinstance(outputs, TopClasses):
        return outputs.losses[rows].mean()
    return model.loss_of_test_outputs(outputs[rows], targets[rows])


def _reproduction(run: Path, command: str) -> Iterator[Html]:
    """Yield the command of the test and the configuration of the training."""
    yield section("Command", element("pre", command, tabindex=0))
    config = run / "config.yaml"
    if config.exists():  # not for a checkpoint outside of a run
        text = element("pre", read_text(config), tabindex=0)
        yield element("details", element("summary", "Training configuration (config.yaml)"), text)


def page(title: str, body: Html) -> str:
    """Return the HTML document."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{element('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
