"""The results of a study: lines and a table for the terminal, and its files `study.json` and `best.yaml`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from kindling.runs.folders import STUDY_FILE
from kindling.runs.text_files import read_text
from kindling.tuning.study import EPOCHS, REASON, RUN, SECONDS, Study
from kindling.utils.console import new_table
from kindling.utils.files import atomic_write, write_json
from kindling.utils.text import count_noun, format_metric

SHOWN = 5  # best trials in the table
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
STATES |= {TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}
OF_TRIALS = ("run_name", "test_after_fit", "ckpt_path")  # options that are not part of the recipe


def describe_trial(trial: FrozenTrial, study: Study, monitor: str) -> str:
    """Return one line about a finished trial and its metric."""
    names = short_names(study)
    values = "  ".join(f"{names[name]} {format_value(value)}" for name, value in trial.params.items())
    epochs, seconds = (trial.user_attrs.get(name) for name in (EPOCHS, SECONDS))
    facts = f"{count_noun(epochs, 'epoch', 'epochs')}, {seconds:.1f} s" if epochs and seconds else "not trained"
    if trial.state == TrialState.COMPLETE:
        is_best = study.best is not None and study.best.number == trial.number
        result = f"{monitor} {format_metric(trial.values[0])}{', the best so far' * is_best}"
    else:
        reason = trial.user_attrs.get(REASON, "")
        result = reason if trial.state == TrialState.PRUNED else f"failed: {reason}"
    return f"trial {trial.number}: {result}  ({facts})  {values}"


def study_table(study: Study, monitor: str) -> Table:
    """Return a table with the best trials side by side, and the number of all others in its title."""
    best, states = study.ranked()[:SHOWN], [STATES[trial.state] for trial in study.trials()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(STATES.values()) if state in states)
    title = f"{study.path}: {count_noun(len(states), 'trial', 'trials')} ({counts}), the best {len(best)}"
    table = new_table(title, "trial", *(f"{trial.number}" for trial in best))
    table.add_row(monitor, *(format_metric(trial.values[0]) for trial in best))
    for name, short in short_names(study).items():
        table.add_row(short, *(format_value(trial.params[name]) for trial in best))
    table.add_row(EPOCHS, *(str(trial.user_attrs.get(EPOCHS, "")) for trial in best))
    table.add_row(SECONDS, *(f"{trial.user_attrs.get(SECONDS) or 0:.1f}" for trial in best))
    return table


def summary_of(study: Study, monitor: str) -> dict[str, Any]:
    """Return the study as plain values: the metric, the best trial and all trials."""
    sign = "min" if study.is_minimized else "max"
    return {
        "study": study.path.name,
        "monitor": monitor,
        "mode": sign,
        "best": study.best.number if study.best else None,
        "trials": [
            {
                "number": trial.number,
                "state": STATES[trial.state],
                "value": trial.values[0] if trial.values and trial.state == TrialState.COMPLETE else None,
                "options": trial.params,
                **{name: trial.user_attrs.get(name) for name in (REASON, RUN, EPOCHS, SECONDS)},
            }
            for trial in study.trials()
        ],
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `study.json`."""
    write_json(folder / STUDY_FILE, summary)
    return folder / STUDY_FILE


def write_best(study: Study, monitor: str) -> Path | None:
    """Write `best.yaml`, the recipe of the best trial; none if there is no such trial, or it is on another machine."""
    best = study.best
    (study.path / "best.yaml").unlink(missing_ok=True)
    config = Path(best.user_attrs.get(RUN, ""), "config.yaml") if best else None
    if best is None or config is None or not config.is_file():
        return None
    recipe = yaml.safe_load(read_text(config))
    for name in OF_TRIALS:
        recipe.pop(name, None)
    values = ", ".join(f"{name} {format_value(value)}" for name, value in best.params.items())
    comment = f"# Trial {best.number} of {study.path}: {monitor} {format_metric(best.values[0])} with {values}.\n"
    with atomic_write(study.path / "best.yaml") as path:
        path.write_text(comment + yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    return study.path / "best.yaml"


def short_names(study: Study) -> dict[str, str]:
    """Return the options with their last part, `lr` for `model.optimizer.lr`, or with more where two are the same."""
    names: Sequence[str] = [*study.space.distributions]
    parts = {name: name.split(".") for name in names}
    short = {}
    for name in names:
        lengths = range(1, len(parts[name]) + 1)
        tails = (".".join(parts[name][-length:]) for length in lengths)
        unique = (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in names) == 1)
        short[name] = next(unique, name)
    return short


def format_value(value: object) -> str:
    """Return the value of an option, numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
