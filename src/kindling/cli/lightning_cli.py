"""`kindling fit`, `validate`, `test` and `predict`: LightningCLI with run folders and named checkpoints."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from kindling.cli.auto_resume import AutoResume
from kindling.cli.checkpoint_config import load_checked_weights
from kindling.cli.class_names import NOUNS, replacement_hint
from kindling.cli.command_line import resumes_automatically
from kindling.cli.config_sources import Sources
from kindling.cli.evaluator import Evaluator
from kindling.cli.fit_options import ALL_PROBABILITIES, add_fit_options, check_nonempty_run, check_validation
from kindling.cli.fitter import Fitter, is_trainable
from kindling.cli.module_builder import ModuleBuilder
from kindling.cli.option_checks import check_config
from kindling.cli.parser import KindlingArgumentParser, prefer_whole_numbers, split_help_all
from kindling.cli.parser_errors import one_line
from kindling.cli.recipes import DEFAULT_SEED
from kindling.cli.run_session import RunSession, SaveConfig, run_name
from kindling.cli.stage_support import has_stage
from kindling.cli.trainer_setup import add_run, prepare_options, prepare_trainer, trainer_callbacks
from kindling.evaluation.result_files import is_writable
from kindling.models.loading import check_trained
from kindling.models.sanity_check import check_network
from kindling.runs.folders import RUNS, run_folder_of
from kindling.tensorboard import Dashboard, dashboard_of
from kindling.tensorboard.trials import TrialDashboard
from kindling.training import TestOutputCollector
from kindling.training.completion import CompleteError, epochs_completed, is_training_complete
from kindling.training.launcher import reporting_as_one
from kindling.training.orphans import end_with_parent, watch_parents
from kindling.training.terminate_on_nan import describe_anomaly
from kindling.training.trackers import explaining_login, finishing_trackers
from kindling.tuning import diagnostics
from kindling.tuning.trials import TrialOptions
from kindling.utils.console import say, silence_libraries
from kindling.utils.errors import UsageError
from kindling.utils.plugins import load_plugins
from kindling.utils.text import program_name


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
        self.options = options
        self.trial = trial
        self.auto = AutoResume.of(options) if command == "fit" else None
        self.sources = Sources.read(command, load_plugins(self.auto.options if self.auto else options))
        self.checkpoint = self.sources.checkpoint
        self.builder = ModuleBuilder(self, command, self.sources, trial.data if trial else None)
        self.session: RunSession | None = None
        self.epochs_completed = 0  # by the checkpoint
        self.changed: list[str] = []  # options with which `test` evaluates another model, or a part of the test split
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
        check_config(command_parser, self._config, self.sources)
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
        options = self.config_init[self.command]["trainer"]
        self._load_checkpoint()
        is_saved = not (options["barebones"] or options["fast_dev_run"] or self._is_diagnostic)
        prepare_options(options, self._config)
        check_nonempty_run(self.command, options, self._tests, is_trainable(self.model))
        if self.command == "fit" and not self._is_diagnostic:
            check_validation(self.model, options)
        try:
            if self.command == "fit" and is_saved:
                self._open_run(options)
            else:
                options["logger"] = False
            trainer = Trainer(**{**options, "callbacks": self._callbacks(options), **kwargs})
            stored = self.sources.stored
            loaded = (self.checkpoint, {**stored}) if self.checkpoint and not self._is_diagnostic else None
            prepare_trainer(trainer, self.command, self.session.path if self.session else None, loaded, self._clean_up)
            self.epochs_completed = epochs_completed(stored)
            stored.clear()  # the Trainer holds the only copy and frees it after restoring
            return trainer
        except BaseException as error:  # Ctrl-C leaves no empty folder either
            self._clean_up()
            if isinstance(error, TypeError | RuntimeError | MisconfigurationException):  # invalid Trainer options
                raise ValueError(f"the Trainer can't be built: {error}") from error
            raise

    @explaining_login()
    @finishing_trackers()
    def fit(self, **kwargs: Any) -> None:
        """Train, then test the best checkpoint."""
        parts = self.trainer, self.model, self.datamodule
        fitter = Fitter(*parts, self.session, self.checkpoint, self.is_trained)
        try:
            check_network(self.model)
            if self._is_diagnostic:
                plot = RUNS / self._run_name / "lr_finder.png"
                config = self.config_init["fit"]
                diagnostics.run_diagnostic(
                    self.model, self.datamodule, config, plot, self.options, self.epochs_completed
                )
                return
            fitter.train(**kwargs)
        except BaseException as error:
            self._clean_up()
            if describe_anomaly(error):
                raise ValueError("; ".join(error.__notes__)) from error
            raise

        def test(checkpoint: Path | None) -> None:
            self.test(**kwargs | {"ckpt_path": checkpoint})

        fitter.finish(test if self._tests_after_fit else None, self.trial is not None)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate the checkpoint on the validation split."""
        assert self.checkpoint is not None
        self._evaluator.validate(self.checkpoint, **kwargs)

    def test(self, **kwargs: Any) -> None:
        """Evaluate the checkpoint on the test split and write the results into its run folder."""
        checkpoint = kwargs["ckpt_path"] if self.command == "fit" else self.checkpoint
        self._evaluator.test(checkpoint, self.session, self.changed, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        """Write the predictions of the checkpoint into its run folder."""
        assert self.checkpoint is not None
        self._evaluator.predict(self.checkpoint, **kwargs)

    def _load_checkpoint(self) -> None:
        stored = self.sources.stored
        load_checked_weights(self.model, self.datamodule, self.checkpoint, stored)
        if not self.checkpoint or self._is_diagnostic:  # diagnostics do not resume
            return
        if self.command == "fit":
            tests, is_auto = self._tests_after_fit, self.auto is not None
            self.is_trained = is_training_complete(self.checkpoint, stored, self._config, tests, is_auto)
            return
        check_trained(self.checkpoint, stored)
        if self.command == "test":
            self.changed = self.sources.changed_options(self.model, self._config["trainer"]["limit_test_batches"])
        writes = is_writable(run_folder_of(self.checkpoint)) and not self._config["trainer"]["fast_dev_run"]
        if self.command == "test" and writes and not (self.changed or self._other_data):
            self.collector = dashboard_of(self.checkpoint, stored["global_step"]) or self.collector

    def _open_run(self, options: Any) -> None:
        """Open the run folder, and set the Trainer options that make it write there."""
        restarted = self.auto.restarted if self.auto else None
        self.session = RunSession.open(
            self._run_name, self.checkpoint, restarted, self.sources.configs, self._command_line
        )
        if self.session.is_new:
            self._config["run_name"] = self._run_name  # so that a run repeated from config.yaml has the same name
        add_run(options, self._config, self.session, self.sources.stored.get("global_step"))
        if options["logger"]:
            self.collector = TrialDashboard() if self.trial else Dashboard()

    def _callbacks(self, options: Any) -> list[Callback]:
        """Return the callbacks of the Trainer."""
        parser = self._parser(self.command)
        configured = [self.config_init[self.command][key] for key in parser.callback_keys]
        self.collector.buffer.keeps_all = self._keeps_all
        callbacks = trainer_callbacks(options, self._config, filter(None, configured), self.session, self.collector)
        if self.session:  # a resumed run replaces its config.yaml
            callbacks.append(SaveConfig(parser, self._config, overwrite=True))
        return self.trial.adapt(callbacks) if self.trial else callbacks

    def _clean_up(self) -> None:
        if self.session:
            self.session.clean_up(began=hasattr(self, "trainer") and self.trainer.global_step > 0)

    @property
    def _evaluator(self) -> Evaluator:
        parts = self.trainer, self.model, self.datamodule, self.collector
        return Evaluator(*parts, self._keeps_all, self._command_line, self._other_data)

    @property
    def _command_line(self) -> str:
        return shlex.join([program_name(), self.command, *self.options])

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
    def _other_data(self) -> dict[str, Any]:
        """Options of the data with which `test` and `predict` read other samples than those of the run."""
        return self.sources.other_data(self.datamodule) if self.command in ("test", "predict") else {}

    @property
    def _is_diagnostic(self) -> bool:
        """Whether `--overfit` or `--find_lr` replaces training."""
        return self.command == "fit" and diagnostics.is_wanted(self._config)


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
        say(f"nothing is left to train: {done}; to start a new run, leave out --ckpt_path auto")
