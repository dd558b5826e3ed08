"""The trials of `kindling tune`: train them one after the other in this process, and report their results."""

import argparse
import errno
import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Self

import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from kindling.cli.entry_point import describe_error
from kindling.cli.lightning_cli import KindlingCLI
from kindling.cli.search_config import SearchConfig
from kindling.cli.trial_process import clean_process, output_in, status
from kindling.runs.folders import RUNS, STUDY_FILE, remove_folder
from kindling.runs.repeats import is_finished
from kindling.runs.run import Run, find_runs, flatten_config, sort_by_start
from kindling.training.launcher import wait_for_processes
from kindling.tuning.study import Study
from kindling.tuning.study_results import describe_trial, study_table, summary_of, write_best, write_summary
from kindling.tuning.trials import VARIABLE, PruneTrial, TrialOptions
from kindling.utils.console import as_command, say
from kindling.utils.errors import UsageError
from kindling.utils.stop_signals import find_interruption
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
        is_trained: Whether a trial of the study has been trained.
        failures: Trials of this command that failed before that.
    """

    study: Study
    shared: list[str]
    monitor: str
    trial_options: TrialOptions
    is_trained: bool
    failures: int = 0

    @classmethod
    def open(cls, typed: argparse.Namespace, shared: list[str]) -> Self:
        """Check the options and the search space, and open the study."""
        path = RUNS / typed.study
        config = SearchConfig.read(typed, shared, is_checked=(path / STUDY_FILE).exists())
        space, monitor, is_new = config.space, config.monitor, not path.exists()
        try:
            study = Study.open(path, typed.storage, config.settings, space, sampler=typed.sampler, seed=config.seed)
        except BaseException:
            if is_new:
                remove_folder(path)
            raise
        if not (path / STUDY_FILE).exists():
            write_summary(path, summary_of(study, monitor))
        options = flatten_config(config.fit)
        study.prune_by(typed.pruner, config.fit["trainer"]["max_epochs"] or 1, bool(options.get("model.lr_scheduler")))
        if point := space.point_of(options):
            study.begin_with(point)
        is_trained = bool(study.finished(TrialState.COMPLETE, TrialState.PRUNED))
        return cls(study, config.shared, monitor, TrialOptions(PruneTrial(monitor)), is_trained)

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
        """Train a trial, or resume it, and store its result; `show` receives the progress after each epoch."""
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
            except (Exception, SystemExit) as error:
                if interruption := find_interruption(error):
                    raise interruption from error
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
        self.is_trained |= is_trained or trial.state != TrialState.FAIL
        if self.is_trained:
            return
        self.failures += 1
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
