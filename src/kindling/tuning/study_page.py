"""`study.html`: the history of a study, the importance of its options, and their values, in one page."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import optuna.visualization as charts
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from kindling.evaluation.report.html import Html, element, join, name_cell, section, table
from kindling.evaluation.report.page import page
from kindling.runs.plots import PALETTE
from kindling.tuning.study import EPOCHS, REASON, RUN, SECONDS, Study
from kindling.tuning.study_results import STATES, format_value, short_names
from kindling.utils.files import atomic_write
from kindling.utils.text import format_metric

HEIGHT, SMALL = 380, 260  # pixels of a chart, and of one of several
SHADES = [(0, "#bcd9ec"), (1, PALETTE[0])]  # white would be invisible
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
    about = (
        f"{len(trials)} trials · {study.sampler} · {monitor}, {'lower' if study.is_minimized else 'higher'} is better"
    )
    body = [element("h1", title), element("p", about, class_="soft"), _cards(study, best, monitor)]
    body += [
        section(heading, element("p", text, class_="soft"), chart) for heading, text, chart in _charts(study, monitor)
    ]
    body.append(section("All trials", _trials(study, monitor)))
    with atomic_write(study.path / "study.html") as path:
        path.write_text(page(title, join(body)), encoding="utf-8")
    return study.path / "study.html"


def _cards(study: Study, best: FrozenTrial, monitor: str) -> Html:
    """Return the best value and the options that led to it."""
    names = short_names(study)
    values = {f"best {monitor}": format_metric(best.values[0]), "trial": f"{best.number}"}
    values |= {names[name]: format_value(value) for name, value in best.params.items()}
    return element(
        "div",
        *(element("div", name, element("b", text), class_="card") for name, text in values.items()),
        class_="cards",
    )


def _charts(study: Study, monitor: str) -> Iterator[tuple[str, str, Html]]:
    """Yield title, explanation and charts of each section; those that need several trials only if there are."""
    stored, names = _renamed(study), [*short_names(study).values()]
    curve = [charts.plot_optimization_history(stored, target_name=monitor)]
    curve[0].update_traces(line_shape="hv")
    curve[0].update_xaxes(dtick=max(1, len(study.trials()) // 10))
    yield (
        "History",
        "Each point is a complete trial, the line the best one so far.",
        _embed(curve, monitor, library=True),
    )
    curve = [charts.plot_intermediate_values(stored)]
    curve[0].update_xaxes(dtick=max(1, max(max(t.intermediate_values, default=1) for t in study.trials()) // 10))
    if monitor.endswith("loss"):  # the first values may be far above the others
        curve[0].update_yaxes(type="log")
    yield "Curves", "Each line is a trial; those that end early were pruned.", _embed(curve, monitor)
    if len(study.ranked()) < 2:
        return
    slices = [charts.plot_slice(stored, [name], target_name=monitor) for name in names]
    if len(names) > 1 and len({trial.values[0] for trial in study.ranked()}) > 1:
        with warnings.catch_warnings(action="ignore"):  # of an option that had the same value in all trials
            evaluator = FanovaImportanceEvaluator(seed=0)
            bars = [charts.plot_param_importances(stored, evaluator=evaluator, target_name=monitor)]
        yield "Importance", IMPORTANCE, _embed(bars, monitor)
    yield "Values of each option", "Each point is a complete trial; darker ones are later.", _embed(slices, monitor)
    if len(names) > 1:
        lines = [charts.plot_parallel_coordinate(stored, target_name=monitor)]
        yield "All options together", "Each line is a complete trial; darker ones are better.", _embed(lines, monitor)


def _renamed(study: Study) -> optuna.Study:
    """Return a copy of a study whose options have their short names, which fit into charts."""
    names, copy = short_names(study), optuna.create_study(direction=study.stored.direction)
    for trial in study.trials():
        copy.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values if trial.state == TrialState.COMPLETE else None,
                params={names[name]: value for name, value in trial.params.items()},
                distributions={names[name]: kind for name, kind in trial.distributions.items()},
                intermediate_values=trial.intermediate_values,
            )
        )
    return copy


def _embed(figures: Sequence[Any], monitor: str, library: bool = False) -> Html:
    """Return charts as HTML; the first one of a page must include the library that draws them."""
    titles = {"Intermediate Value": monitor, "Step": "epoch", "Trial": "trial", "Hyperparameter": ""}
    titles |= {"Hyperparameter Importance": "importance"}
    parts = []
    for figure in figures:
        figure.update_layout(
            title=None, template="plotly_white", colorway=PALETTE, margin={"t": 20, "r": 20, "b": 50, "l": 60}
        )
        figure.update_layout(height=HEIGHT if len(figures) == 1 else SMALL, width=None, autosize=True)
        if len(figures) > 1:
            figure.update_traces(marker={"showscale": False, "colorscale": SHADES})
        for axes in (figure.for_each_xaxis, figure.for_each_yaxis):
            axes(lambda axis: axis.update(title=titles.get(axis.title.text, axis.title.text)))
        figure.for_each_trace(lambda trace: trace.update(name="best so far"), {"name": "Best Value"})
        html = figure.to_html(
            full_html=False, include_plotlyjs=library, config={"displayModeBar": False, "responsive": True}
        )
        parts.append(element("div", Html(html)))
    return element("div", *parts, class_="grid" if len(figures) > 1 else "wide")


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
        facts = [
            STATES[trial.state],
            value,
            trial.user_attrs.get(EPOCHS, ""),
            "" if seconds is None else f"{seconds:.1f}",
        ]
        values = [format_value(trial.params[name]) if name in trial.params else "" for name in names]
        cells = [element("td", text) for text in (*facts, *values, trial.user_attrs.get(REASON, ""))]
        rows.append(
            [name_cell(Path(trial.user_attrs.get(RUN, f"trial_{trial.number}")).parent.name or trial.number), *cells]
        )
    return table(header, rows, class_="list")
