"""`validate`, `test` and `predict`: evaluate a model, print the metrics and write the files of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from kindling.cli.run_session import RunSession
from kindling.cli.stage_support import check_stage, explaining_forward
from kindling.cli.summary import print_threshold
from kindling.evaluation.fold_outputs import save_outputs
from kindling.evaluation.gathering import gather_predictions
from kindling.evaluation.result_files import (
    check_readable,
    folder_of_test,
    is_writable,
    not_written,
    run_test,
    save_predictions,
    save_test_results,
)
from kindling.runs.checkpoints import restoring
from kindling.runs.folders import run_folder_of
from kindling.training import TestOutputCollector
from kindling.utils.console import line_for, results_table, say
from kindling.utils.text import join_names


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on the splits of its data.

    Attributes:
        trainer: The Trainer.
        model: The model.
        data: The data module; None for a model with its own data.
        collector: The Trainer's callback that collects the outputs of a test.
        keeps_all: Whether `predictions.csv` gets the probability of each class, also of very many.
        command_line: The command, which the test report shows.
        other_data: Options of the data, without `--data.`, that choose other samples than those of the run.
    """

    trainer: Trainer
    model: LightningModule
    data: LightningDataModule | None
    collector: TestOutputCollector
    keeps_all: bool
    command_line: str
    other_data: Mapping[str, object]

    def validate(self, checkpoint: Path, **kwargs: Any) -> None:
        """Evaluate a checkpoint on the validation split."""
        check_stage("validate", self.model, self.data, "val")
        with restoring(checkpoint), line_for("validating"):
            results = self.trainer.validate(**kwargs | {"ckpt_path": checkpoint, "verbose": False})
        if not results:
            raise ValueError(f"{type(self.data).__name__} has no validation samples: use kindling test")
        say(results_table(f"validation split, {checkpoint}", results[0]))
        print_threshold(self.model)

    def test(
        self,
        checkpoint: Path | None,
        session: RunSession | None,
        changed: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Evaluate a model on the test split, and write the results into its run folder.

        Args:
            checkpoint: The checkpoint; None for the current weights.
            session: The run that `fit` has just trained, if any.
            changed: Options that differ from those of the run; its results are kept if there are any.
            **kwargs: Arguments of `Trainer.test`.
        """
        check_stage("test", self.model, self.data, "test")
        with restoring(checkpoint), line_for("testing"):
            metrics, failure = run_test(self.trainer, **kwargs | {"ckpt_path": checkpoint, "verbose": False})
        weights = checkpoint or self._current_weights
        say(results_table(f"test split, {weights}", metrics))
        print_threshold(self.model)
        if failure:
            raise failure
        if changed:
            say(f"test results not saved: {_differ(changed)} from the run")
            return
        if not checkpoint and session:
            checkpoint = session.path / "checkpoints" / weights  # determines folder and title of the results
        if not checkpoint or self._is_fast_dev_run:
            return
        results = checkpoint, metrics, self.collector, self.model, self.data, self.command_line, self.keeps_all
        folder = folder_of_test(checkpoint, self.other_data)
        if report := save_test_results(folder, *results):
            say(f"report: {report}")
        if self.other_data:
            differing = _differ(["--data" if name == "data" else f"--data.{name}" for name in self.other_data])
            say(f"{differing} from the run: the results are in {folder}, and those of the run are unchanged")
        if session:
            save_outputs(session.path, self.collector, self.data)
            session.record.mark_tested()

    def predict(self, checkpoint: Path, **kwargs: Any) -> None:
        """Write the predictions of a checkpoint into its run folder."""
        check_stage("predict", self.model, self.data, "predict")
        run_folder = run_folder_of(checkpoint)
        if not is_writable(run_folder) and not self._is_fast_dev_run:
            raise not_written(run_folder, "read-only")  # fail before predicting for minutes
        with restoring(checkpoint), explaining_forward(self.model), line_for("predicting"):
            is_short = self.collector.shortens(self.model, self.data)
            returned = {"return_predictions": False} if is_short else {}
            batches: Any = self.trainer.predict(**kwargs | returned | {"ckpt_path": checkpoint})
            batches = self.collector.take_predicted() if is_short else batches
            if self.trainer.world_size > 1:
                batches = gather_predictions(self.trainer, batches, as_one=is_short)
        if not self._is_fast_dev_run and self.trainer.is_global_zero:
            written, number = save_predictions(
                checkpoint, batches, self.model, self.data, self.keeps_all, self.other_data
            )
            print_threshold(self.model)
            say(f"{number:,} predictions: {written}")
            check_readable(written, self.data)

    @property
    def _current_weights(self) -> str:
        return "a few batches (--trainer.fast_dev_run)" if self._is_fast_dev_run else "weights at the end of training"

    @property
    def _is_fast_dev_run(self) -> bool:
        return bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]


def _differ(options: Sequence[str]) -> str:
    """Return the names of options and the verb that follows."""
    return f"{join_names(options)} {'differs' if len(options) == 1 else 'differ'}"
