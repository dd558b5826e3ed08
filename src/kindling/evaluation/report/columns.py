"""The columns of a table in the report: which ones matter, and how the predictions depend on them."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from kindling.data import BaseDataModule
from kindling.data.tables.rows import distinct_columns
from kindling.evaluation.charts import NAME_LENGTH
from kindling.evaluation.dependence import Dependence, partial_dependence
from kindling.evaluation.dependence_charts import Output, dependence_chart
from kindling.evaluation.features import features_of
from kindling.evaluation.importance import (
    REPEATS,
    Importance,
    affordable_rows,
    permutation_importance,
    predictor_of,
)
from kindling.evaluation.regression import Target
from kindling.evaluation.report.html import Html, element, figure_element, join, name_cell, section, table
from kindling.models import ClassificationTask, RegressionTask
from kindling.utils.tensors import evenly_spaced
from kindling.utils.text import count_noun, format_numbers, join_names, shorten

SHOWN = 15  # columns in the table
CHARTS = 3
MIN_SAMPLES = 20  # fewer say nothing about columns
MAX_INPUTS = 5000  # numbers that encode all columns; 10,000 rows take 200 MB


def column_sections(
    model: ClassificationTask | RegressionTask, outputs: Tensor, targets: Tensor, data: BaseDataModule
) -> Iterator[Html]:
    """Yield the importance of the columns, and the dependence on the most important ones, if the data is a table.

    `outputs` (N, ...) are the predictions for the test samples, `targets` (N,) their true classes or values.
    """
    rows = outputs.reshape(len(outputs), -1).isnan().any(dim=1).logical_not().nonzero().squeeze(1)
    if (
        data.fitted.get("columns") is None
        or len(rows) < MIN_SAMPLES
        or not (few := features_of(data, rows[:64], MAX_INPUTS))
    ):
        return
    compute = predictor_of(model)
    rows = rows[evenly_spaced(len(rows), affordable_rows(compute, few))]
    features = features_of(data, rows, MAX_INPUTS)
    threshold = model.threshold if isinstance(model, ClassificationTask) else None
    found = permutation_importance(compute, features, targets[rows], threshold=threshold)
    yield section("Column importance", *importance_table(found, len(rows), len(outputs), Target.of(data.fitted)))
    if important := [one for one in found if one.matters][:CHARTS]:
        dependences = [partial_dependence(compute, features, one.feature) for one in important]
        yield section("Partial dependence", dependence_charts(dependences, rows, model, data))


def importance_table(found: Sequence[Importance], rows: int, samples: int, target: Target) -> Iterator[Html]:
    """Yield the HTML of the importance table, and of a note with the columns that have no clear effect."""
    important = [one for one in found if one.matters]
    drawn = f"{rows:,} of {samples:,}" if rows < samples else f"{rows:,}"
    is_classifier = "error" in found[0].means
    score = "log loss" if is_classifier else "RMSE"
    intro = (
        f"Increase of the {score} when the values of a column are shuffled among the {drawn} test samples: mean and "
        f"standard deviation of {REPEATS} repeats. Columns with the same information share their importance."
    )
    if important:
        yield element("p", intro, class_="soft")
        header = ["column", f"{score}{'' if is_classifier else target.suffix}", "±"] + ["accuracy"] * is_classifier
        yield table(header, _importance_rows(important[:SHOWN]), class_="list groups")
    rest = [one.feature.name for one in found if not one.matters]
    notes = [f"No clear effect (at most twice the standard deviation): {join_names(rest, 20)}."] if rest else []
    if (more := len(important) - SHOWN) > 0:
        notes.insert(0, f"{count_noun(more, 'more column has', 'more columns have')} a smaller effect.")
    if notes:
        yield element("p", " ".join(notes), class_="soft")


def _importance_rows(found: Sequence[Importance]) -> Iterator[list[Html]]:
    first = next(iter(found[0].means))
    numbers = format_numbers([part[first] for one in found for part in (one.means, one.spreads)], digits=3)
    for one, mean, spread in zip(found, numbers[::2], numbers[1::2], strict=True):
        share = f"--share: {one.means[first] / found[0].means[first]:.1%}"
        cells = [element("td", f"+{mean}", class_="share", style=share), element("td", spread)]
        if "error" in one.means:
            cells.append(element("td", f"{-100 * one.means['error']:+.1f} points"))
        yield [name_cell(one.feature.name), *cells]


def dependence_charts(
    dependences: Sequence[Dependence], rows: Tensor, model: ClassificationTask | RegressionTask, data: BaseDataModule
) -> Html:
    """Return a chart for each column, `rows` being the test samples of the features."""
    target = Target.of(data.fitted)
    output = Output(f"predicted {shorten(target.name, NAME_LENGTH)}{target.suffix}")
    if isinstance(model, ClassificationTask):
        output = Output("probability", model.class_names)
    columns = {column["name"]: column for column in distinct_columns(data.fitted["columns"])}
    charts = [
        figure_element(
            dependence_chart(each, columns[each.feature.name], output, _labels(each, rows, data)),
            f"predictions by {each.feature.name}",
            _caption(each, len(output.classes)),
        )
        for each in dependences
    ]
    intro = (
        "The mean prediction if all test samples had the same value in one column and were otherwise unchanged, even "
        "if that combination never occurs."
    )
    return join([element("p", intro, class_="soft"), element("div", *charts, class_="charts")])


def _labels(dependence: Dependence, rows: Tensor, data: BaseDataModule) -> list[str]:
    """Return the category of each value, as it is in the data."""
    if not dependence.feature.is_category:
        return []
    name, missing = dependence.feature.name, dependence.feature.missing
    return [
        "missing" if missing[sample] else str(data.sample_details(int(rows[sample])).get(name))
        for sample in dependence.samples.tolist()
    ]


def _caption(dependence: Dependence, classes: int) -> str:
    name = dependence.feature.name
    if classes > 2:
        return f"By {name}: mean probability of the classes that move most."
    if dependence.feature.is_category:
        return f"By {name}: bars start at the mean of all; gray: 80% of the samples, each shifted to the mean of all."
    return f"By {name}: mean; band: 80% of the samples, each shifted to the mean of all; marks: values of samples."
