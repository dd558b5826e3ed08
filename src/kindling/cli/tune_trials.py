"""The trials of `kindling tune`: train them one after the other in this process, and report their results."""

import argparse
import errno
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from time import monotonic
from typing import Any, Self

import torch
import yaml
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from kindling.cli.entry_point import describe_error
from kindling.cli.lightning_cli import KindlingCLI
from kindling.cli.recipes import seed_of
from kindling.cli.trial_process import clean_process, output_in, status
from kindling.cli.yaml_files import read_yaml
from kindling.runs.folders import RUNS, STUDY_FILE
from kindling.runs.repeats import digest_files, is_finished
from kindling.runs.run import Run, find_runs, flatten_config, sort_by_start
from kindling.training.launcher import wait_for_processes
from kindling.tuning.search_space import SearchSpace
from kindling.tuning.study import Study, remove_folder
from kindling.tuning.study_results import describe_trial, study_table, summary_of, write_best, write_summary
from kindling.tuning.trials import VARIABLE, PruneTrial, TrialOptions
from kindling.utils.console import as_command, say
from kindling.utils.errors import UsageError
from kindling.utils.plugins import load_plugins
from kindling.utils.text import count_noun, format_metric

MAX_FAILURES = 3  # trials of a command that fail before any other has been trained
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a full or read-only disk


@dataclass
class Search:
    """A study and the command that its trials share.

    Attributes:
        study: The study.
        shared: Options of `fit` that all trials share.
        monitor: Metric of the study.
        trial_options: How the trials are trained, apart from their values.
    """

    study: Study
    shared: list[str]
    monitor: str
    trial_options: TrialOptions
    failures: int = 0  # trials of this command that failed; -1 once one has been trained

    @classmethod
    def open(cls, typed: argparse.Namespace, shared: list[str]) -> Self:
        """Check the options and the search space, and open the study."""
        contents = [read_yaml(Path(config)) for config in typed.config if Path(config).is_file()]
        seed = seed_of(contents) if typed.seed_everything is None else typed.seed_everything
        shared = [*shared, f"--seed_everything={seed}"]
        load_plugins(shared)  # what they print when they are imported is not part of the config
        space = SearchSpace.parse(read_yaml(Path(typed.search)), typed.search)
        config = resolve_config(shared)
        path = RUNS / typed.study
        if not (path / STUDY_FILE).exists():  # otherwise it has been checked before
            check_space(space, typed.search, shared)
        monitor = config["checkpoint"]["monitor"]
        space.check_metric(monitor, typed.search)
        settings = {
            "options": [Path(option).name if option.startswith("--config=") else option for option in shared],
            "search space": space.describe(),
            "monitor": monitor,
            "mode": config["checkpoint"]["mode"],
            "contents of files": digest_files(shared, contents),
        }
        is_new = not path.exists()
        try:
            study = Study.open(path, typed.storage, settings, space, sampler=typed.sampler, seed=seed)
        except BaseException:
            if is_new:
                remove_folder(path)
            raise
        if not (path / STUDY_FILE).exists():
            write_summary(path, summary_of(study, monitor))
        options = flatten_config(config)
        study.prune_by(typed.pruner, config["trainer"]["max_epochs"] or 1, bool(options.get("model.lr_scheduler")))
        if point := space.point_of(options):
            study.begin_with(point)
        trained = study.finished(TrialState.COMPLETE, TrialState.PRUNED)
        return cls(study, shared, monitor, TrialOptions(PruneTrial(monitor)), -1 if trained else 0)

    def run_trials(self, total: int | None, timeout: float | None, stderr: bool = False) -> None:
        """Train trials until the study has `total` of them, or `timeout` seconds have passed."""
        end = monotonic() + (timeout or float("inf"))
        path, before = self.study.path, len(self.study.finished())
        if before:
            say(f"{path}: {count_noun(before, 'trial', 'trials')} finished before", stderr=stderr)
        while monotonic() < end and (trial := self.study.next_trial(total)):
            title = f"trial {trial.number}" + (f" of {total}" if total else "")
            if self._find_run(trial.number):
                say(f"trial {trial.number} resumes", stderr=stderr)
            with clean_process(), status(title) as show, output_in(path / f"trial_{trial.number}.log"):
                finished = self._train(trial, show)
            say(describe_trial(finished, self.study, self.monitor), stderr=stderr)
            write_summary(path, summary_of(self.study, self.monitor))
            if self.study.best and self.study.best.number == finished.number:
                write_best(self.study, self.monitor)
            if torch.cuda.is_available():
                gc.collect()  # free the memory of the last model

    def report(self, form: str) -> None:
        """Print the result of the study, and write it into its folder."""
        from kindling.tuning.study_page import write_page  # takes a second to import

        study, summary = self.study, summary_of(self.study, self.monitor)
        write_summary(study.path, summary)
        recipe = write_best(study, self.monitor)
        if not study.best:
            reasons = [trial.user_attrs.get("reason", "") for trial in study.finished(TrialState.FAIL)]
            self.discard()
            raise ValueError(f"no trial of {study.path} is complete: {reasons[-1] if reasons else 'allow more time'}")
        if form == "json":
            print(json.dumps(summary, indent=2))
        else:
            say(study_table(study, self.monitor))
        page = write_page(study, self.monitor)
        if form == "json":
            return
        say(f"page: {page}")
        if recipe and (run := self._find_run(study.best.number)):  # not if another machine has trained it
            say(f"best recipe: {recipe}\nnext:")
            say("  " + as_command("kindling", "test --ckpt_path", run.path))
            say("  " + as_command("kindling", "fit --config", recipe))

    def _train(self, trial: Trial, show: Callable[[str], None]) -> FrozenTrial:
        """Train a trial, or resume it, and store its result.

        Args:
            trial: The trial.
            show: Receives the progress after each epoch.
        """
        study, failure, run, limit = self.study, "", self._find_run(trial.number), MAX_FAILURES

        def decide(epoch: int, value: float, may_stop: bool) -> bool:
            show(f"epoch {epoch}, {self.monitor} {format_metric(value)}")
            return study.decide(trial, epoch, value, may_stop)

        is_over = run is not None and (is_finished(run) or "reason" in study.get(trial.number).user_attrs)
        if not is_over:
            options = self._command(trial, run)
            self.trial_options.pruning.decide = decide
            os.environ[VARIABLE] = self.monitor
            sys.argv = [sys.argv[0], "fit", *options]  # Lightning repeats it to start further processes
            try:
                wait_for_processes(KindlingCLI("fit", options, self.trial_options).trainer)
            except SystemExit as stop:  # Lightning turns Ctrl-C into this
                raise KeyboardInterrupt from stop
            except Exception as error:
                is_full = isinstance(error, OSError) and error.errno in DISK_ERRORS
                if is_full or isinstance(error, SQLAlchemyError | StorageInternalError):
                    raise  # the trial stays under way, and the same command resumes it
                failure = describe_error(error) or f"{type(error).__name__}: {error}"
                limit = 1 if isinstance(error, UsageError) else MAX_FAILURES
        run = self._find_run(trial.number)
        facts = {"run": str(run.path), "epochs": run.metadata.epochs, "seconds": run.metadata.seconds} if run else {}
        value = run.metadata.best.get(self.monitor) if run else None
        finished = study.finish(trial, value, failure, **facts)
        if run and finished.state == TrialState.PRUNED:
            run.metadata.reason = finished.user_attrs["reason"]
            run.metadata.write(run.path)
        is_recipe = "fixed_params" in finished.system_attrs
        self._give_up_if_all_fail(finished, bool(facts.get("epochs")), 1 if is_recipe else limit)
        return finished

    def _give_up_if_all_fail(self, trial: FrozenTrial, is_trained: bool, limit: int) -> None:
        """Raise ValueError after `limit` failures if no trial of the study could be trained."""
        is_lost = trial.state == TrialState.FAIL and not is_trained
        self.failures = self.failures + 1 if is_lost and self.failures >= 0 else -1  # -1 from the first success on
        if self.failures >= limit:
            self.discard()
            raise ValueError(trial.user_attrs["reason"])

    def discard(self) -> None:
        """Remove the study if this command has created it and nothing has been trained."""
        if self.study.is_new and not self.study.is_used_elsewhere and not find_runs(self.study.path):
            self.study.delete()

    def _find_run(self, number: int) -> Run | None:
        """Return the newest run of a trial."""
        runs = sort_by_start(map(Run.read, find_runs(self.study.path / f"trial_{number}")))
        return runs[-1] if runs else None

    def _command(self, trial: Trial, run: Run | None) -> list[str]:
        """Return the options of `fit` that train a trial, or resume its run if that has a checkpoint."""
        if run and (last := run.path / "checkpoints" / "last.ckpt").exists():
            return ["--ckpt_path", str(last), *(option for option in self.shared if option.startswith("--plugin="))]
        name = f"--run_name={self.study.path.relative_to(RUNS)}/trial_{trial.number}"
        return [*self.shared, *self.study.space.options(trial.params), "--test_after_fit=false", name]


def resolve_config(options: Sequence[str]) -> dict[str, Any]:
    """Return all options that `fit` would use, with their defaults.

    Raises:
        UsageError: If the options are invalid.
    """
    printed = StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        KindlingCLI("fit", [*options, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


def check_space(space: SearchSpace, source: str, shared: Sequence[str]) -> None:
    """Raise UsageError if `fit` would not take an option of the search space, or one of its values."""
    for point in space.probes():
        try:
            resolve_config([*shared, *space.options(point)])
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from error
