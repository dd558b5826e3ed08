"""`study.html`: the history of a study, the importance of its options, and their values, in one page."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna.visualization as charts
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial

from kindling.evaluation.report.html import Html, element, join, name_cell, section, table
from kindling.evaluation.report.page import page
from kindling.runs.plots import PALETTE
from kindling.tuning.study import EPOCHS, REASON, RUN, SECONDS, Study
from kindling.tuning.study_results import STATES, format_value, short_names
from kindling.utils.files import atomic_write
from kindling.utils.text import format_metric

ROW_HEIGHT, MIN_HEIGHT = 26, 380  # pixels
IMPORTANCE = (
    "Share of the variance of the metric that each option explains alone, in a random forest fitted to the complete "
    "trials (fANOVA). It is rough with fewer than 30 of them."
)


def write_page(study: Study, monitor: str) -> Path:
    """Write `study.html` into the folder of a study with at least one complete trial."""
    best = study.best
    assert best is not None
    title = f"Study {study.path.name}"
    trials = study.trials()
    about = f"{len(trials)} trials · {study.sampler} · {monitor}, {'lower' if study.is_minimized else 'higher'} is better"
    body = [element("h1", title), element("p", about, class_="soft"), _cards(study, best, monitor)]
    body += [section(heading, element("p", text, class_="soft"), chart) for heading, text, chart in _charts(study, monitor)]
    body.append(section("All trials", _trials(study, monitor)))
    with atomic_write(study.path / "study.html") as path:
        path.write_text(page(title, join(body)), encoding="utf-8")
    return study.path / "study.html"


def _cards(study: Study, best: FrozenTrial, monitor: str) -> Html:
    """Return the best value and the options that led to it."""
    names = short_names(study)
    values = {f"best {monitor}": format_metric(best.values[0]), "trial": f"{best.number}"}
    values |= {names[name]: format_value(value) for name, value in best.params.items()}
    return element("div", *(element("div", name, element("b", text), class_="card") for name, text in values.items()), class_="cards")


def _charts(study: Study, monitor: str) -> Iterator[tuple[str, str, Html]]:
    """Yield title, explanation and chart of each section; those that need several trials only if there are."""
    names = short_names(study)
    history = "Each point is a complete trial, the line the best one so far."
    curves = "Each line is a trial; those that end early were pruned."
    several = len(study.ranked()) > 1
    plots: list[tuple[str, str, Callable[..., Any], bool]] = [
        ("History", history, charts.plot_optimization_history, True),
        ("Curves", curves, lambda stored, **_: charts.plot_intermediate_values(stored), True),
        ("Importance", IMPORTANCE, _importances, several and len(names) > 1),
        ("Values of each option", "Darker points are later trials.", charts.plot_slice, several),
        ("All options together", "Each line is a complete trial.", charts.plot_parallel_coordinate, several and len(names) > 1),
    ]
    is_first = True
    for title, text, plot, is_shown in plots:
        if is_shown:
            with warnings.catch_warnings(action="ignore"):
                figure = plot(study.stored, target_name=monitor)
            yield title, text, _embed(figure, names, monitor, is_first)
            is_first = False


def _importances(stored: Any, target_name: str) -> Any:
    return charts.plot_param_importances(stored, evaluator=FanovaImportanceEvaluator(seed=0), target_name=target_name)


def _embed(figure: Any, names: dict[str, str], monitor: str, includes_library: bool) -> Html:
    """Return a chart as HTML, with the short names of the options; the first one brings the library."""
    figure.update_layout(title=None, template="plotly_white", colorway=PALETTE, margin={"t": 30, "r": 20}, height=MIN_HEIGHT)
    figure.for_each_xaxis(lambda axis: axis.update(title=names.get(axis.title.text, axis.title.text)))
    figure.for_each_yaxis(lambda axis: axis.update(title=monitor if axis.title.text == "Intermediate Value" else axis.title.text))
    if len(figure.data) and figure.data[0].type == "parcoords":
        for dimension in figure.data[0].dimensions:
            dimension.label = names.get(dimension.label, dimension.label)
    if len(figure.data) and figure.data[0].type == "bar":
        figure.update_yaxes(labelalias=names)
    html = figure.to_html(full_html=False, include_plotlyjs=includes_library, config={"displaylogo": False, "responsive": True})
    return element("div", Html(html), class_="chart")


def _trials(study: Study, monitor: str) -> Html:
    """Return a table of all trials: the best ones first, then those that were pruned or failed."""
    ranked = study.ranked()
    others = [trial for trial in study.trials() if trial not in ranked]
    names = short_names(study)
    header = ["trial", "state", monitor, "epochs", "seconds", *names.values(), "reason"]
    rows = []
    for trial in [*ranked, *others]:
        seconds = trial.user_attrs.get(SECONDS)
        value = format_metric(trial.values[0]) if trial in ranked else ""
        facts = [STATES[trial.state], value, trial.user_attrs.get(EPOCHS, ""), "" if seconds is None else f"{seconds:.1f}"]
        values = [format_value(trial.params[name]) if name in trial.params else "" for name in names]
        cells = [element("td", text) for text in (*facts, *values, trial.user_attrs.get(REASON, ""))]
        rows.append([name_cell(Path(trial.user_attrs.get(RUN, f"trial_{trial.number}")).parent.name or trial.number), *cells])
    return table(header, rows, class_="list")
