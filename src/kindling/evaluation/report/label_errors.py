"""Likely label errors in the report, and their file."""

from pathlib import Path

from torch import Tensor

from kindling.data import BaseDataModule
from kindling.evaluation.label_errors import LabelErrors, find_label_errors
from kindling.evaluation.predictions_csv import label_texts, write_label_errors
from kindling.evaluation.report.html import Html, element
from kindling.evaluation.report.samples import NO_CLASS, show_samples
from kindling.models import ClassificationTask, MultiLabelTask
from kindling.runs.folders import LABEL_ERRORS
from kindling.training.output_collector import Outputs
from kindling.utils.text import count_noun

SHOWN = 12
REPEAT_ADVICE = " For all labels, run kindling repeat --folds 5 with the options of this run."


def save_label_errors(
    run: Path, outputs: Outputs, targets: Tensor, model: ClassificationTask | MultiLabelTask, data: BaseDataModule
) -> LabelErrors:
    """Write `label_errors.csv` into a run folder, and return the label errors; see `write_report` for the arguments."""
    probabilities = outputs
    if isinstance(outputs, Tensor):
        probabilities = outputs.exp() if isinstance(model, ClassificationTask) else model.to_prediction(outputs)
    errors = find_label_errors(probabilities, targets)
    arguments = data.row_header, errors, targets, model.class_names, data.keys("tested")
    write_label_errors(run / LABEL_ERRORS, data.tested_rows(), *arguments)
    return errors


def label_error_section(
    errors: LabelErrors,
    targets: Tensor,
    model: ClassificationTask | MultiLabelTask,
    data: BaseDataModule,
    covers_all: bool,
) -> Html:
    """Return the most likely label errors; unless all folds were tested, with a command that does so, if there is."""
    total, wrong = count_noun(len(targets), "label", "labels"), int(errors.sure.sum())
    scope = ""
    if not covers_all:
        scope = f" Only test samples are covered.{REPEAT_ADVICE if data.draws_folds else ''}"
    if not len(errors.rows):
        return element("p", f"None of {total} looks wrong.{scope}")
    rows = errors.rows[:SHOWN]
    given, suggested = (
        [text or NO_CLASS for text in label_texts(labels, model.class_names)]
        for labels in (targets[rows], errors.suggested[:SHOWN])
    )
    probabilities = [f"{probability:.2g}" for probability in errors.probabilities[:SHOWN].tolist()]
    columns = {"label": given, "suggestion": suggested, "probability": probabilities}
    number = f"{wrong:,}" if wrong else "none"
    intro = f"The model is sure of another class for {number} of {total} (confident learning). The most improbable "
    intro += f"labels are shown; {LABEL_ERRORS} in the run folder lists all {len(errors.rows):,} for which another is "
    intro += "more probable. Look at each: the model may be wrong instead, as most often if its accuracy is low."
    return show_samples(rows, columns, f"{intro}{scope}", "the probability of the label", data)
