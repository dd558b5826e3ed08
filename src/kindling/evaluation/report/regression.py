"""The report of a regression model, section by section."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from kindling.data import BaseDataModule
from kindling.evaluation.features import Feature, errors_by_feature, features_of
from kindling.evaluation.regression import ErrorGroup, RegressionPredictions, error_intervals, errors_by_target
from kindling.evaluation.regression_charts import error_chart, error_histogram, prediction_chart
from kindling.evaluation.report.heat_maps import RIGHT, Explain, ExplainedScore, Explanation
from kindling.evaluation.report.html import Html, element, figure_element, join, name_cell, section, table
from kindling.evaluation.report.metric_cards import metric_cards
from kindling.evaluation.report.samples import SHOWN, show_samples
from kindling.evaluation.statistics import RESAMPLES
from kindling.utils.text import count_noun, format_number, format_numbers

FEATURES = 3  # shown at most
IN_UNITS = ("mae", "rmse")  # metrics in the units of the target


def regression_sections(
    metrics: Mapping[str, float],
    predictions: RegressionPredictions,
    losses: Tensor,
    data: BaseDataModule,
    columns: Iterable[Html],
    explain: Explain | None,
) -> Iterator[Html]:
    """Yield the sections of the report, among them those about the columns of a table.

    `losses` are the mean losses of `random_blocks`, (B,). `explain` computes the heat maps of images.
    """
    unit = predictions.target.unit and f" {predictions.target.unit}"

    def format_value(name: str, value: float) -> str:
        return format_number(value) + unit * (name in IN_UNITS)

    finite = predictions.finite
    yield metric_cards(metrics, error_intervals(predictions, losses), format_value, _note(predictions, unit))
    if missing := len(predictions.values) - len(finite.values):
        yield element("p", f"{count_noun(missing, 'prediction is', 'predictions are')} not finite and left out below.")
    if len(finite.values):
        yield section("Predictions", prediction_charts(finite))
        groups = errors_by_target(finite)
        parts = [section("Size of the errors", histogram(finite))]
        if len(groups) > 1:
            parts.append(section("Errors by target", target_table(finite, groups)))
        yield element("div", *parts, class_="pair")
        yield from columns
        yield from feature_sections(predictions, data)
    worst = predictions.worst(SHOWN)
    intro = f"The {len(worst)} largest errors."
    yield section("Worst predictions", show_predictions(worst, predictions, data, intro, explain))
    if explain and len(best := predictions.best(min(RIGHT, len(predictions.values) - len(worst)))):
        intro = f"The {len(best)} smallest errors."
        yield section("Best predictions", show_predictions(best, predictions, data, intro, explain))


def _note(predictions: RegressionPredictions, unit: str) -> str:
    targets = predictions.targets.double()
    low, high = (format_number(end.item()) for end in targets.aminmax())
    note = f"Ranges are 95% bootstrap confidence intervals ({RESAMPLES:,} resamples). The targets of the test split "
    note += f"range from {low} to {high}{unit}"
    return note + (f", standard deviation {format_number(targets.std().item())}{unit}." if len(targets) > 1 else ".")


def prediction_charts(predictions: RegressionPredictions) -> Html:
    """Return the predictions against the targets, and the errors against the predictions."""
    charts = [
        figure_element(
            prediction_chart(predictions),
            "predictions against targets",
            "Prediction and target of each sample; dashed: equal.",
        ),
        figure_element(
            error_chart(predictions),
            "errors against predictions",
            "Error (prediction minus target) by prediction; orange: mean error of samples with similar predictions.",
        ),
    ]
    return element("div", *charts, class_="charts")


def histogram(predictions: RegressionPredictions) -> Html:
    """Return the histogram of the errors."""
    quantiles = predictions.errors.abs().quantile(predictions.errors.new_tensor([0.5, 0.9])).tolist()
    half, most = (f"{format_number(value)} {predictions.target.unit}".rstrip() for value in quantiles)
    caption = f"Half of the predictions are off by less than {half}, 90% by less than {most}. The outermost bars "
    caption += "include all errors beyond."
    chart = figure_element(error_histogram(predictions), "histogram of the errors", caption)
    return element("div", chart, class_="charts")


def target_table(predictions: RegressionPredictions, groups: Sequence[ErrorGroup]) -> Html:
    """Return the errors of groups of samples with similar targets."""
    ends = [predictions.targets[group.rows].aminmax() for group in groups]
    lows, highs = (format_numbers([end.item() for end in part]) for part in zip(*ends, strict=True))
    labels = [_range([low, high]) for low, high in zip(lows, highs, strict=True)]
    intro = "Groups of about equal size. Bias is the mean error: negative if the predictions are too low."
    groups_table = group_table(f"{predictions.target.name}{predictions.target.suffix}", labels, groups)
    return join([element("p", intro, class_="soft"), groups_table])


def group_table(title: str, labels: Sequence[str], groups: Sequence[ErrorGroup]) -> Html:
    """Return a table of the errors of groups with their labels, the MAE as a bar."""
    largest = max(group.mae for group in groups) or 1.0
    numbers = format_numbers([group.mae for group in groups] + [group.bias for group in groups])
    rows = (
        [
            name_cell(label),
            element("td", f"{len(group.rows):,}"),
            element("td", mae, class_="share", style=f"--share: {group.mae / largest:.1%}"),
            element("td", _signed(bias)),
        ]
        for label, group, mae, bias in zip(labels, groups, numbers[: len(groups)], numbers[len(groups) :], strict=True)
    )
    return table([title, "samples", "MAE", "bias"], rows, class_="list groups")


def feature_sections(predictions: RegressionPredictions, data: BaseDataModule) -> Iterator[Html]:
    """Yield the errors by the features on which their size depends, if the samples have features."""
    rows = predictions.errors.isfinite().nonzero().squeeze(1)
    if not (features := features_of(data, rows)):
        return
    found = errors_by_feature(predictions.errors[rows], features, FEATURES)
    if not found:
        yield section("Errors by feature", element("p", "The size of the errors depends on no feature clearly."))
        return
    intro = "The features on which the size of the errors depends most clearly (Kruskal-Wallis test)."
    tables = (
        group_table(one.feature.name, [_label(one.feature, group, rows, data) for group in one.groups], one.groups)
        for one in found
    )
    yield section("Errors by feature", element("p", intro, class_="soft"), element("div", *tables, class_="pair"))


def _label(feature: Feature, group: ErrorGroup, rows: Tensor, data: BaseDataModule) -> str:
    """Return the values of a feature in a group, as they are in the data."""
    if feature.is_category and (number := len(np.unique(feature.values[group.rows].numpy(), axis=0))) > 1:
        return f"{number} others"
    values = feature.values[group.rows, 0]
    places = [0] if feature.is_category else [int(values.argmin()), int(values.argmax())]
    found = [data.sample_details(int(rows[group.rows[place]])).get(feature.name) for place in places]
    return _range(["missing" if value is None else str(value) for value in found])


def show_predictions(
    rows: Tensor, predictions: RegressionPredictions, data: BaseDataModule, intro: str, explain: Explain | None
) -> Html:
    """Return test samples by index (n,) with their predictions, and heat maps of what raises or lowers them."""
    targets, values, errors = (
        format_numbers(part[rows].tolist()) for part in (predictions.targets, predictions.values, predictions.errors)
    )
    columns = {predictions.target.name: targets, "prediction": values, "error": [*map(_signed, errors)]}
    scores = [ExplainedScore(torch.ones(len(rows)), ["orange raises the prediction, blue lowers it"] * len(rows))]
    explanation = Explanation(explain, scores, "lowers the prediction", "raises the prediction") if explain else None
    return show_samples(rows, columns, intro, "its error", data, explanation)


def _range(ends: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def _signed(number: str) -> str:
    """Return a formatted number with a sign if it is positive."""
    return number if number.startswith("-") or not number.strip("0.") or number == "nan" else f"+{number}"
