"""`kindling fit`, `validate`, `test` and `predict`: LightningCLI with run folders and named checkpoints."""

import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from kindling.cli.auto_resume import AutoResume
from kindling.cli.checkpoint_config import CompleteError, epochs_completed, is_training_complete, load_weights
from kindling.cli.class_names import NOUNS, replacement_hint
from kindling.cli.command_line import resumes_automatically
from kindling.cli.config_sources import Sources
from kindling.cli.fit_options import ALL_PROBABILITIES, add_fit_options, check_nonempty_run, check_validation
from kindling.cli.module_builder import ModuleBuilder
from kindling.cli.option_checks import check_config, check_devices, check_tasks
from kindling.cli.parser import KindlingArgumentParser, prefer_whole_numbers, split_help_all
from kindling.cli.parser_errors import one_line
from kindling.cli.recipes import DEFAULT_SEED
from kindling.cli.run_session import RunSession, SaveConfig, run_name
from kindling.cli.stage_support import check_stage, explaining_forward, has_stage
from kindling.cli.summary import print_early_stop_reason, print_model, print_next_steps, print_threshold
from kindling.cli.trainer_setup import add_run, prepare_options, remove_averaging, trainer_callbacks
from kindling.data import BaseDataModule
from kindling.evaluation.fold_outputs import save_outputs
from kindling.evaluation.gathering import gather_predictions
from kindling.evaluation.result_files import (
    check_readable,
    is_writable,
    not_written,
    run_test,
    save_predictions,
    save_test_results,
)
from kindling.models.loading import check_trained
from kindling.models.sanity_check import check_network
from kindling.runs.checkpoint_contents import restoring
from kindling.runs.folders import RUNS, run_folder_of
from kindling.tensorboard import Dashboard, dashboard_of
from kindling.tensorboard.trials import TrialDashboard
from kindling.training import TestOutputCollector
from kindling.training.checkpoint_io import write_atomically
from kindling.training.processes import end_with_parent, reporting_as_one, watch_parents, watch_processes
from kindling.training.sync_batch_norm import use_own_batch_norm
from kindling.training.terminate_on_nan import describe_anomaly
from kindling.training.trackers import explaining_login, finishing_trackers
from kindling.training.user_callbacks import naming_monitors
from kindling.tuning import diagnostics
from kindling.tuning.trials import TrialOptions
from kindling.utils.console import as_command, line_for, results_table, say, silence_libraries
from kindling.utils.errors import UsageError
from kindling.utils.plugins import load_plugins
from kindling.utils.stop_signals import interruption
from kindling.utils.text import join_names, program_name


class KindlingCLI(LightningCLI):
    """LightningCLI for one command and its options.

    In `fit`, the model's input shape and classes come from the data module; in the other commands, from the
    checkpoint. With `--ckpt_path`, options on the command line override the config of the checkpoint's run.

    Args:
        command: fit, validate, test or predict.
        options: Options on the command line.
        trial: How to train if `fit` is a trial of a study.
    """

    def __init__(self, command: str, options: Sequence[str], trial: TrialOptions | None = None) -> None:
        self.command = command
        self.trial = trial
        self.typed = shlex.join([program_name(), command, *options])
        self.auto = AutoResume.of(options) if command == "fit" else None
        self.sources = Sources.read(command, load_plugins(self.auto.options if self.auto else options))
        self.checkpoint = self.sources.checkpoint
        self.builder = ModuleBuilder(self, command, self.sources, trial.data if trial else None)
        self.run: RunSession | None = None
        self.epochs_completed = 0  # by the checkpoint
        self.is_trained = False  # whether a resumed run lacks only its plots and test
        self.collector = TestOutputCollector()
        parser_kwargs: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            LightningModule,
            parser_class=KindlingArgumentParser,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=None,  # `instantiate_trainer` adds one
            seed_everything_default=DEFAULT_SEED,
            trainer_defaults={
                "max_epochs": 10,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "enable_autolog_hparams": False,  # config.yaml contains them all
            },
            parser_kwargs=parser_kwargs | {command: parser_kwargs},
            args=[command],
        )

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        # One parser instead of four, each of which takes a third of a second to build.
        return {self.command: LightningCLI.subcommands()[self.command] | {"return_predictions"}}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        prefer_whole_numbers(parser)
        if self.command == "fit":
            add_fit_options(parser, self.sources.given, self.builder.data_attribute)
        if self.command in ("test", "predict"):
            parser.add_argument("--all_probabilities", action="store_true", help=ALL_PROBABILITIES)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        command_parser = self._parser(self.command)
        try:
            self.config = parser.parse_args([self.command, *self.sources.arguments])
        except ArgumentError as error:
            known = {*command_parser.get_defaults().keys(branches=True), *NOUNS}
            message = one_line(str(error), known, self.sources.typed)
            raise UsageError(message + replacement_hint(message, self.sources.model)) from error
        check_config(command_parser, self._config, self.sources.names, self.checkpoint)
        self._config["ckpt_path"] = None  # otherwise Lightning lets the checkpoint's hyperparameters win

    @override
    def before_instantiate_classes(self) -> None:
        assert isinstance(self.parser, KindlingArgumentParser)
        self.parser.instantiators = [
            (self.builder.create_model, LightningModule, True),
            (self.builder.create_data, LightningDataModule, True),
        ]

    @override
    def instantiate_classes(self) -> None:
        with self.builder.error.raised():
            super().instantiate_classes()

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check the options, open the run folder and build the Trainer."""
        config, parser = self._config, self._parser(self.command)
        options = self.config_init[self.command]["trainer"]
        self._load_checkpoint()
        is_saved = not (options["barebones"] or options["fast_dev_run"] or self._is_diagnostic)
        prepare_options(options, config)
        check_nonempty_run(self.command, options, self._tests, self._is_trainable)
        if self.command == "fit" and not self._is_diagnostic:
            check_validation(self.model, options)
        configured = [self.config_init[self.command][key] for key in parser.callback_keys]
        try:
            if self.command == "fit" and is_saved:
                self._open_run(options)
            else:
                options["logger"] = False
            self.collector.buffer.keeps_all = self._keeps_all
            callbacks = trainer_callbacks(options, config, filter(None, configured), self.run, self.collector)
            if self.run:  # a resumed run replaces its config.yaml
                callbacks.append(SaveConfig(parser, config, overwrite=True))
            if self.trial:
                callbacks = self.trial.adapt(callbacks)
            trainer = Trainer(**{**options, "callbacks": callbacks, **kwargs})
            check_devices(trainer)
            if self.command == "fit":
                check_tasks(trainer)
            use_own_batch_norm(trainer)
            loaded = (self.checkpoint, {**self.sources.stored}) if self.checkpoint and not self._is_diagnostic else None
            write_atomically(trainer.strategy, self.run.path if self.run else None, loaded)
            self.epochs_completed = epochs_completed(self.sources.stored)
            self.sources.stored.clear()  # the Trainer holds the only copy and frees it after restoring
            watch_processes(trainer, self._clean_up)
            return trainer
        except BaseException as error:  # Ctrl-C leaves no empty folder either
            self._clean_up()
            if isinstance(error, TypeError | RuntimeError):  # invalid values of Trainer options
                raise ValueError(f"the Trainer can't be built: {error}") from error
            raise

    @explaining_login()
    @finishing_trackers()
    def fit(self, **kwargs: Any) -> None:
        """Train, then test the best checkpoint."""
        try:
            check_network(self.model)
            if self._is_diagnostic:
                self._run_diagnostic()
                return
            self._train(**kwargs)
        except BaseException as error:
            self._clean_up()
            if describe_anomaly(error):
                raise ValueError("; ".join(error.__notes__)) from error
            raise
        print_early_stop_reason(self.trainer, self.run.path if self.run else None)
        if self.run and (number := self.run.resume.signal):
            say("trained to the end; test it with: " + as_command("kindling", "test --ckpt_path", self.run.path))
            if self.trial or (number != signal.SIGINT and self._tests_after_fit):  # no further trial starts
                raise interruption(number)
            return
        if self._tests_after_fit:
            remove_averaging(self.trainer)
            self.test(**kwargs | {"ckpt_path": self.run.tested_checkpoint(self.trainer) if self.run else None})
        if self.run:
            has_prediction = has_stage(self.model, self.datamodule, "predict")
            print_next_steps(self.trainer, self.run.path, self._is_trainable, has_prediction)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate the checkpoint on the validation split."""
        check_stage("validate", self.model, self.datamodule, "val")
        with restoring(self.checkpoint), line_for("validating"):
            results = self.trainer.validate(**kwargs | {"ckpt_path": self.checkpoint, "verbose": False})
        if not results:
            raise ValueError(f"{type(self.datamodule).__name__} has no validation samples: use kindling test")
        say(results_table(f"validation split, {self.checkpoint}", results[0]))
        print_threshold(self.model)

    def test(self, **kwargs: Any) -> None:
        """Evaluate the checkpoint on the test split and write the results into its run folder."""
        check_stage(self.command, self.model, self.datamodule, "test")
        checkpoint = kwargs["ckpt_path"] or (None if self.command == "fit" else self.checkpoint)
        with restoring(checkpoint), line_for("testing"):
            metrics, failure = run_test(self.trainer, **kwargs | {"ckpt_path": checkpoint, "verbose": False})
        is_trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        weights = checkpoint or ("a few batches after a trial run" if is_trial else "weights at the end of training")
        say(results_table(f"test split, {weights}", metrics))
        print_threshold(self.model)
        if failure:
            raise failure
        if not checkpoint and self.run:
            checkpoint = self.run.path / "checkpoints" / weights  # determines folder and title of the results
        if self._changed:
            say(f"not stored, since {join_names(self._changed)} differs from the run, which keeps its test results")
        elif checkpoint and not is_trial:
            where = Path(checkpoint)
            results = where, metrics, self.collector, self.model, self.datamodule, self.typed, self._keeps_all
            if report := save_test_results(*results):
                say(f"report: {report}")
            if self.run:
                save_outputs(self.run.path, self.collector, self.datamodule)
                self.run.record.mark_tested()

    def predict(self, **kwargs: Any) -> None:
        """Write the predictions of a checkpoint into its run folder."""
        assert self.checkpoint is not None
        check_stage("predict", self.model, self.datamodule, "predict")
        is_trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if not is_writable(run_folder_of(self.checkpoint)) and not is_trial:
            raise not_written(run_folder_of(self.checkpoint), "read-only")  # fail before predicting for minutes
        with restoring(self.checkpoint), explaining_forward(self.model), line_for("predicting"):
            is_short = self.collector.shortens(self.model, self.datamodule)
            returned = {"return_predictions": False} if is_short else {}
            batches: Any = self.trainer.predict(**kwargs | returned | {"ckpt_path": self.checkpoint})
            batches = self.collector.take_predicted() if is_short else batches
            if self.trainer.world_size > 1:
                batches = gather_predictions(self.trainer, batches, as_one=is_short)
        if not is_trial and self.trainer.is_global_zero:
            written, number = save_predictions(self.checkpoint, batches, self.model, self.datamodule, self._keeps_all)
            print_threshold(self.model)
            say(f"{number:,} predictions: {written}")
            check_readable(written, self.datamodule)

    def _load_checkpoint(self) -> None:
        stored = self.sources.stored
        load_weights(self.model, self.datamodule, self.checkpoint, stored)
        if not self.checkpoint or self._is_diagnostic:  # diagnostics do not resume
            return
        if self.command == "fit":
            tests, is_auto = self._tests_after_fit, self.auto is not None
            self.is_trained = is_training_complete(self.checkpoint, stored, self._config, tests, is_auto)
            return
        check_trained(self.checkpoint, stored)
        writes = is_writable(run_folder_of(self.checkpoint)) and not self._config["trainer"]["fast_dev_run"]
        if self.command == "test" and writes and not self._changed:
            self.collector = dashboard_of(self.checkpoint, stored["global_step"]) or self.collector

    def _open_run(self, options: Any) -> None:
        """Open the run folder, and set the Trainer options that make it write there."""
        restarted = self.auto.restarted if self.auto else None
        self.run = RunSession.open(self._run_name, self.checkpoint, restarted, self.sources.configs, self.typed)
        if self.run.is_new:
            self._config["run_name"] = self._run_name  # so that a run repeated from config.yaml has the same name
        add_run(options, self._config, self.run, self.sources.stored.get("global_step"))
        if options["logger"]:
            self.collector = TrialDashboard() if self.trial else Dashboard()

    def _train(self, **kwargs: Any) -> None:
        """Train the model; one without trainable parameters, such as an ensemble, is validated and saved."""
        if self.run and isinstance(self.datamodule, BaseDataModule):
            rank_zero_only(self.datamodule.write_split)(self.run.path)
        print_model(self.model, self.run.path if self.run else None, self.trainer)
        if self._is_trainable:
            if self.run and self.is_trained:
                say("training is complete: finishing the plots and the test")
                self.run.resume.is_trained = True
            with restoring(self.checkpoint), naming_monitors(self.trainer):
                self.trainer.fit(**kwargs | {"ckpt_path": self.checkpoint, "weights_only": True})
            return
        if self.run:
            self.run.record.begin(self.trainer)
        results = self.trainer.validate(**kwargs | {"ckpt_path": None, "verbose": False})
        for metrics in results:
            say(results_table("validation split", metrics))
        if self.run:
            self.run.save_untrained(self.trainer, results[0] if results else {})

    def _run_diagnostic(self) -> None:
        """Run `--overfit` or `--find_lr` instead of training."""
        typed = shlex.split(self.typed)[2:]
        if self.checkpoint and 0 <= (self.trainer.max_epochs or -1) <= self.epochs_completed:
            typed += ["--trainer.max_epochs", str(2 * self.epochs_completed)]  # a run resumes only for more epochs
        plot = RUNS / self._run_name / "lr_finder.png"
        diagnostics.run_diagnostic(self.model, self.datamodule, self.config_init["fit"], plot, typed)

    def _clean_up(self) -> None:
        if self.run:
            self.run.clean_up(began=hasattr(self, "trainer") and self.trainer.global_step > 0)

    @property
    def _run_name(self) -> str:
        return run_name(self._config["run_name"], self.sources.configs, (self.model, self.datamodule))

    @property
    def _config(self) -> Any:
        """Options of the command."""
        return self.config[self.command]

    @property
    def _tests(self) -> bool:
        """Whether the command tests the model; `fit` does so after training."""
        return bool(self._config.get("test_after_fit", True)) and has_stage(self.model, self.datamodule, "test")

    @property
    def _keeps_all(self) -> bool:
        """Whether `predictions.csv` gets the probability of each class, also of very many."""
        return bool(self._config.get("all_probabilities"))

    @property
    def _tests_after_fit(self) -> bool:
        return self._tests and bool(getattr(self.datamodule, "has_test_split", True))

    @property
    def _changed(self) -> list[str]:
        """Options of the model that make the results of `test` those of another model than the checkpoint's."""
        return self.sources.changed_options(self.model) if self.command == "test" else []

    @property
    def _is_diagnostic(self) -> bool:
        """Whether `--overfit` or `--find_lr` replaces training."""
        return self.command == "fit" and diagnostics.is_wanted(self._config)

    @property
    def _is_trainable(self) -> bool:
        """Whether the model has trainable parameters; an ensemble has none."""
        return any(parameter.requires_grad for parameter in self.model.parameters())


def run(command: str, options: Sequence[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict` with the options on the command line."""
    silence_libraries()
    options, KindlingArgumentParser.shows_all = split_help_all(options)
    end_with_parent()
    watch_parents()
    try:
        with reporting_as_one():
            KindlingCLI(command, options, TrialOptions.of_other_process())
    except CompleteError as done:
        if not resumes_automatically(options):
            raise
        say(f"nothing is left to train: {done}; without --ckpt_path auto, a new run starts")
