"""A study: the trials of a hyperparameter search, stored by Optuna, and the folder of their runs."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from kindling.runs.folders import RUNS, STUDY_FILE, remove_folder
from kindling.runs.process import is_alive, process_info
from kindling.tuning.search_space import SearchSpace
from kindling.utils.errors import UsageError
from kindling.utils.files import locked
from kindling.utils.text import join_names

DATABASE = "study.db"
STARTUP_TRIALS = 5  # complete ones before the first trial is pruned
SETTINGS, PROCESS, RUN, REASON, EPOCHS, SECONDS = "settings", "process", "run", "reason", "epochs", "seconds"
SAMPLERS: Mapping[str, Any] = {
    "tpe": lambda seed, _: TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "random": lambda seed, _: RandomSampler(seed),
    # One sequence for the study; only choices are drawn anew for each trial.
    "qmc": lambda seed, shared: QMCSampler(scramble=True, seed=shared, independent_sampler=RandomSampler(seed)),
    "gp": lambda seed, _: GPSampler(seed=seed),
}
WAIT = 60.0  # seconds for another process to write its trial into the database


@dataclass
class Study:
    """A study and the folder of its runs; several processes may work on it at the same time.

    Attributes:
        path: Folder `runs/<study>`, with a run for each trial that this machine trains.
        storage: URL of the database.
        stored: Optuna's study.
        space: Options that the trials vary.
        is_new: Whether this process has created it.
        owns_folder: Whether it has created the folder too.
        sampler: Name of the algorithm that suggests their values.
        seed: Seed of the suggestions.
    """

    path: Path
    storage: str
    stored: optuna.Study
    space: SearchSpace
    is_new: bool = False
    owns_folder: bool = False
    sampler: str = "tpe"
    seed: int = 42

    @classmethod
    def open(
        cls, path: Path, storage: str | None, settings: Mapping[str, Any], space: SearchSpace, **options: Any
    ) -> Self:
        """Open the study of a folder, or create it, with the settings that must not change when it is continued.

        `storage` is the URL of a database, by default a file in the folder.

        Raises:
            UsageError: If the study has been started with other settings.
            ValueError: If the database can't be used.
        """
        owns_folder = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        url = storage or f"sqlite:///{path / DATABASE}"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with naming_the_database(url):
            arguments = {"connect_args": {"timeout": WAIT}} if url.startswith("sqlite") else {}
            with locked(path / f".{DATABASE}.lock"):  # two processes can't create the tables at the same time
                stored = optuna.create_study(
                    study_name=path.relative_to(RUNS).as_posix(),
                    storage=optuna.storages.RDBStorage(url, arguments),
                    direction="maximize" if settings["mode"] == "max" else "minimize",
                    load_if_exists=True,
                )
                before = stored.user_attrs.get(SETTINGS)
                if before is None:
                    stored.set_user_attr(SETTINGS, dict(settings))
        if before is not None and (changed := [name for name in settings if settings[name] != before.get(name)]):
            raise UsageError(
                f"{path} is a study with different {join_names(changed)}: name a new one with --study, or remove it"
            )
        return cls(path, url, stored, space, before is None, owns_folder, **options)

    def begin_with(self, point: Mapping[str, Any]) -> None:
        """Let the first trial have given values, unless the study has trials."""
        if not self.trials():
            self.stored.enqueue_trial(dict(point))

    def prune_by(self, name: str, epochs: int, is_scheduled: bool) -> None:
        """Choose how trials are pruned: by the median of the others, by hyperband, or not at all.

        While a schedule still has a high learning rate, the metric says little: after 4 of 12 epochs of one-cycle
        training, those of 30 trials were in nearly the reverse order of the final ones, after 8 in nearly the same.
        """
        warm_up = 1 + (2 * epochs // 3 if is_scheduled else epochs // 4)
        self.stored.pruner = {
            "median": optuna.pruners.MedianPruner(STARTUP_TRIALS, warm_up, n_min_trials=STARTUP_TRIALS),
            "hyperband": optuna.pruners.HyperbandPruner(min_resource=warm_up, max_resource=max(epochs, warm_up)),
            "none": optuna.pruners.NopPruner(),
        }[name]

    def next_trial(self, total: int | None) -> Trial | None:
        """Return a trial whose process on this machine has ended before it was finished, or else a new one.

        The suggestions depend on the seed, the number of the trial and the finished trials, but not on the process: a
        study that was interrupted goes on as it would have. Returns None if a total of trials has been started.
        """
        with locked(self.path / f".{DATABASE}.lock"):
            trials = self.trials()
            lost = [trial for trial in trials if trial.state == TrialState.RUNNING and self._is_lost(trial)]
            if not lost and total is not None and sum(trial.state != TrialState.WAITING for trial in trials) >= total:
                return None
            self.stored.sampler = self._sampler(lost[0].number if lost else len(trials))
            # Optuna only fails such trials and starts them again: https://github.com/optuna/optuna/issues/6283
            trial = Trial(self.stored, lost[0]._trial_id) if lost else self.stored.ask()
            trial.set_user_attr(PROCESS, process_info(self.path))
            self.space.suggest(trial)
        return trial

    def trials(self) -> list[FrozenTrial]:
        """Return all trials of the study, of all machines."""
        return self.stored.get_trials(deepcopy=False)

    def get(self, number: int) -> FrozenTrial:
        """Return the current state of a trial."""
        return next(trial for trial in self.trials() if trial.number == number)

    def decide(self, trial: Trial, epoch: int, value: float, may_stop: bool) -> bool:
        """Report the metric of a trial after an epoch, and return whether the trial, if it may, should be pruned."""
        if epoch not in self.get(trial.number).intermediate_values:  # a resumed training may repeat a validation
            trial.report(value, epoch)
        if not may_stop or not trial.should_prune():
            return False
        trial.set_user_attr(REASON, f"pruned after epoch {epoch}")
        return True

    def finish(self, trial: Trial, value: float | None, failure: str = "", **attributes: Any) -> FrozenTrial:
        """Store the result of a trial: the best value of its metric, why it has failed, and other facts."""
        for name, fact in attributes.items():
            trial.set_user_attr(name, fact)
        if failure or value is None or not math.isfinite(value):
            trial.set_user_attr(REASON, failure or "its metric is not a finite number")
            return self.stored.tell(trial, state=TrialState.FAIL)
        if REASON in self.get(trial.number).user_attrs:
            return self.stored.tell(trial, state=TrialState.PRUNED)  # its value is that of the last epoch
        return self.stored.tell(trial, value)

    @property
    def is_minimized(self) -> bool:
        """Whether lower values are better."""
        return self.stored.direction == optuna.study.StudyDirection.MINIMIZE

    def finished(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the given states, by default all that are finished."""
        return [trial for trial in self.trials() if (trial.state in states if states else trial.state.is_finished())]

    def ranked(self) -> list[FrozenTrial]:
        """Return the complete trials, best first."""
        sign = 1 if self.is_minimized else -1
        return sorted(self.finished(TrialState.COMPLETE), key=lambda trial: (sign * trial.values[0], trial.number))

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the best value; None if there is none."""
        return next(iter(self.ranked()), None)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """Return whether the process that trained a trial is known to have ended; False for other machines."""
        process = trial.user_attrs.get(PROCESS)
        if process is None:  # another machine may have just created it
            begin = trial.datetime_start
            return begin is None or (datetime.now() - begin).total_seconds() > WAIT
        return process["host"] == process_info(self.path)["host"] and not is_alive(process, "")

    @property
    def is_used_elsewhere(self) -> bool:
        """Whether another process trains or has trained a trial."""
        ours = process_info(self.path)
        others = [trial.user_attrs.get(PROCESS, ours) for trial in self.trials()]
        others = [process for process in others if process["pid"] != ours["pid"] or process["host"] != ours["host"]]
        is_trained = bool(self.finished(TrialState.COMPLETE, TrialState.PRUNED))
        return is_trained or any(process["host"] != ours["host"] or is_alive(process, "") for process in others)

    def delete(self) -> None:
        """Remove the study from its database, and its folder."""
        with suppress(KeyError, SQLAlchemyError, StorageInternalError):
            optuna.delete_study(study_name=self.stored.study_name, storage=self.storage)
        if self.owns_folder:
            remove_folder(self.path)
        for path in (self.path / DATABASE, self.path / STUDY_FILE, *self.path.glob("trial_*.log")):
            path.unlink(missing_ok=True)

    def _sampler(self, number: int) -> BaseSampler:
        seed = np.random.SeedSequence((self.seed, number)).generate_state(1)[0]
        sampler: BaseSampler = SAMPLERS[self.sampler](int(seed), self.seed)
        return sampler


@contextmanager
def naming_the_database(url: str) -> Iterator[None]:
    """Turn an error of the database into one line that names it, without its password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        shown = url.rpartition("@")[2]
        raise ValueError(f"the study can't be stored in {shown}: {reason}") from error
