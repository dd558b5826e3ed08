"""`kindling fit`, `validate`, `test` and `predict`: LightningCLI with run folders and checkpoints found by name."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from kindling.cli.checkpoint_config import epochs_completed, is_training_complete, load_weights
from kindling.cli.modules import ModuleBuilder
from kindling.cli.option_checks import (
    apply_barebones,
    check_devices,
    check_nulls,
    check_run_name,
    check_seed,
    check_trainer,
    draw_seed,
)
from kindling.cli.options import KindlingArgumentParser, add_fit_options, check_nonempty_run
from kindling.cli.parser_errors import CLASS_MISSING, NO_NAMES, one_line
from kindling.cli.session import RunSession, SaveConfig
from kindling.cli.sources import Sources
from kindling.cli.stages import has_stage, missing_methods
from kindling.cli.summary import print_early_stop_reason, print_next_steps
from kindling.data import BaseDataModule
from kindling.data.loading import targets_of
from kindling.evaluation.outputs import is_writable, not_written, save_predictions, save_test_results
from kindling.models.loading import check_trained
from kindling.models.sanity_check import check_network, check_targets
from kindling.models.task import BaseTask
from kindling.runs.checkpoint_contents import restoring
from kindling.runs.folders import RUNS, run_folder_of
from kindling.tensorboard import Dashboard, dashboard_of
from kindling.training import (
    BestCheckpoint,
    EpochProfiler,
    LayerHealthMonitor,
    ProgressBar,
    StandardNames,
    TerminateOnNaN,
    TestOutputCollector,
)
from kindling.training.batch_limits import AtLeastOneBatch
from kindling.training.checkpoint_io import write_atomically
from kindling.training.processes import (
    end_with_parent,
    replace_spawn,
    sigterm_as_interrupt,
    watch_parents,
    watch_processes,
)
from kindling.training.terminate_on_nan import describe_anomaly
from kindling.training.user_callbacks import as_list, combine, has_progress_bar
from kindling.tuning import diagnostics
from kindling.utils.console import as_command, results_table, say, silence_libraries
from kindling.utils.errors import UsageError
from kindling.utils.plugins import load_plugins
from kindling.utils.text import program_name, shorten

ARGUMENT = "model.init_args."  # before the name of an argument of the model in links of the parser


RATE = re.compile(r"--model\.(init_args\.)?optimizer\.(init_args\.)?lr[ =]")  # the ways to type it


class KindlingCLI(LightningCLI):
    """LightningCLI for one command and its options.

    In `fit` the data module tells the model its shape and classes; in the other commands the checkpoint does. With
    `--ckpt_path`, the configuration of the checkpoint's run is put before all that was typed, so what was typed wins.

    Args:
        command: fit, validate, test or predict.
        options: The options as typed.
    """

    def __init__(self, command: str, options: Sequence[str]) -> None:
        self.command = command
        self.typed = shlex.join([program_name(), command, *options])
        self.sources = Sources.read(command, load_plugins(options))
        self.checkpoint = self.sources.checkpoint
        self.builder = ModuleBuilder(self, command, self.sources)
        self.epochs_had = 0  # by the checkpoint
        self.run: RunSession | None = None
        self.is_trained = False  # whether the run that is resumed lacks only what follows its training
        self.collected = TestOutputCollector()
        super().__init__(
            LightningModule,
            parser_class=KindlingArgumentParser,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            seed_everything_default=42,
            save_config_kwargs={"overwrite": True},  # a run that goes on writes what it goes on with
            trainer_defaults={
                "max_epochs": 10,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "enable_autolog_hparams": False,  # config.yaml has them all
            },
            parser_kwargs={"exit_on_error": False, command: {"exit_on_error": False}},
            args=[command],
        )

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        # One parser in place of four: each takes a third of a second to build.
        return {self.command: LightningCLI.subcommands()[self.command] | {"return_predictions"}}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.command == "fit":
            add_fit_options(parser, self.sources.given, self.builder.data_attribute)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        command = self.command
        try:
            self.config = parser.parse_args([command, *self.sources.arguments])
        except ArgumentError as error:
            known = self._parser(command).get_defaults().keys(branches=True)
            raise UsageError(one_line(str(error), known, self.sources.typed)) from error
        for name in ("trainer", "checkpoint", "early_stopping"):
            value = self.config[command].get(name, Namespace())
            if not isinstance(value, Namespace):
                shown = "null: remove it for the defaults" if value is None else value
                raise UsageError(f"{name}: expected options such as --{name}.NAME VALUE, got {shown}")
        for key in ("model", "data"):
            if (named := self.config[command].get(key)) and named.class_path in NO_NAMES:
                raise UsageError(f"{key}: {CLASS_MISSING.format(key=key)}")
        if self.config[command]["seed_everything"] is None:  # a recipe's null means what true means
            self.config[command]["seed_everything"] = True
        check_nulls(self._parser(command), self.config[command])
        if self.config[command]["ckpt_path"] is not None and self.checkpoint is None:
            raise UsageError("the checkpoint is given on the command line, in full: --ckpt_path PATH")
        self.config[command]["ckpt_path"] = None  # Lightning would let what the checkpoint stores win
        self._check_typed_rate()

    def _check_typed_rate(self) -> None:
        """Raise UsageError where a learning rate is typed that the schedule would replace by its own."""
        typed = " ".join(self.sources.typed)
        schedule = self.config[self.command].get("model.init_args.lr_scheduler")
        peak = schedule and schedule.class_path.endswith(".OneCycleLR") and schedule.get("init_args.max_lr")
        if peak and RATE.search(typed) and "lr_scheduler" not in typed:
            raise UsageError(
                f"--model.optimizer.lr has no effect with OneCycleLR, whose max_lr is {peak}: add --model.lr_scheduler "
                "OneCycle, or type --model.lr_scheduler.max_lr"
            )

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            if self.builder.failure is None or error is self.builder.failure:
                raise
            raise self.builder.failure from None

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        with restoring(self.checkpoint):
            super()._run_subcommand(subcommand)

    @override
    def _add_instantiators(self) -> None:
        assert isinstance(self.parser, KindlingArgumentParser)
        self.parser.instantiators = [
            (self.builder.create_model, LightningModule, True),
            (self.builder.create_data, LightningDataModule, True),
        ]

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check what was asked for, open the run folder, and build the Trainer that writes into it."""
        self._load_checkpoint()
        config = self.config_init[self.command]["trainer"]
        check_trainer(config)
        check_nonempty_run(self.command, config, self._tests, self._is_trainable)
        saves = not (config["barebones"] or config["fast_dev_run"] or self._is_diagnostic_run)
        if config["barebones"]:
            apply_barebones(config)
        config["strategy"] = replace_spawn(config["strategy"])
        if isinstance(config["strategy"], str):
            self.config[self.command]["trainer"]["strategy"] = config["strategy"]  # for config.yaml
        kwargs |= self._prepare_run(config, saves)
        try:
            trainer = super().instantiate_trainer(**kwargs)
            check_devices(trainer)
            is_loaded = self.checkpoint is not None and not self._is_diagnostic_run
            loaded = (self.checkpoint, {**self.sources.stored}) if self.checkpoint and is_loaded else None
            write_atomically(trainer.strategy, self.run.path if self.run else None, loaded)
            self.epochs_had = epochs_completed(self.sources.stored)
            self.sources.stored.clear()  # the Trainer frees it when all is restored
            watch_processes(trainer, self._clean_up)
            return trainer
        except BaseException as error:  # Ctrl-C leaves no empty folder either
            self._clean_up()
            if isinstance(error, TypeError | RuntimeError):  # of values that the Trainer does not take
                raise ValueError(f"the Trainer can't be built: {error}") from error
            raise

    def _load_checkpoint(self) -> None:
        stored = self.sources.stored
        load_weights(self.model, self.datamodule, self.checkpoint, stored)
        if self.checkpoint and self.command != "fit":
            check_trained(self.checkpoint, stored)
        elif self.checkpoint and not self._is_diagnostic_run:  # which does not resume
            self.is_trained = is_training_complete(self.checkpoint, stored, self.config["fit"])

    def _prepare_run(self, config: Namespace, saves: bool) -> dict[str, Any]:
        """Open the run folder of a training, choose the callbacks, and return further arguments of the Trainer."""
        callbacks: list[Callback] = [AtLeastOneBatch()]
        if config["enable_progress_bar"] is not False and not has_progress_bar(config["callbacks"]):
            callbacks.append(ProgressBar())
        if self.command == "fit":
            watch = self.config["fit"]["watch"]
            callbacks += [TerminateOnNaN(wait=watch), *([LayerHealthMonitor()] if watch else [])]
        arguments: dict[str, Any] = {"logger": False}
        if self.command == "fit" and saves:
            self.run = self._open_run()
            loggers = self.run.loggers(config["logger"], self.sources.stored.get("global_step"))
            arguments = {"default_root_dir": self.run.path, "logger": loggers}
            callbacks += [each for each in self.run.callbacks() if self._saves or each is not self.run.resume]
            if loggers:
                self.collected = Dashboard()
            if self.config["fit"]["profile"]:
                arguments["profiler"] = rank_zero_only(EpochProfiler)(self.run.path)
                self.config["fit"]["profile"] = False  # what repeats or continues the run is not profiled too
        else:
            self.save_config_callback = None
            if self.checkpoint and self.command == "test" and not config["fast_dev_run"]:
                self._add_dashboard(self.checkpoint)
        self.trainer_defaults["callbacks"] = [*callbacks, self.collected]
        return arguments

    def _add_dashboard(self, checkpoint: Path) -> None:
        """Write the plots of a test into the run of its checkpoint, where that has some and may be written."""
        if is_writable(run_folder_of(checkpoint)):
            self.collected = dashboard_of(checkpoint, self.sources.stored["global_step"]) or self.collected

    @override
    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        run = self.run.path if self.run else None
        ours = [callback for callback in callbacks if callback is not None]  # no averaging is asked for
        config["callbacks"] = combine(as_list(config["callbacks"]), [StandardNames(), *ours], run, self._saves)
        return super()._instantiate_trainer(config, [])

    @property
    def _saves(self) -> bool:
        """Whether checkpoints are saved."""
        return self.config_init[self.command]["trainer"]["enable_checkpointing"] is not False

    @override
    def _set_seed(self) -> None:
        config = self.config[self.command]
        if config["seed_everything"] is True:
            config["seed_everything"] = draw_seed(config["trainer"]["num_nodes"])
            say(f"seed: {config['seed_everything']}")
        elif config["seed_everything"] is not False:
            check_seed(config["seed_everything"])
        super()._set_seed()

    def _open_run(self) -> RunSession:
        name = self._run_name()
        run = RunSession.open(name, self.checkpoint, self.sources.configs, self.typed)
        saving = self.config["fit"]["checkpoint"]
        run.resume.every_n_minutes, run.resume.every_n_steps = saving["every_n_minutes"], saving["every_n_steps"]
        if run.is_new:
            self.config["fit"]["run_name"] = name  # so that config.yaml repeats the run under this name
        return run

    def _run_name(self) -> str:
        recipes = [config.stem for config in self.sources.configs if config.parent.name != "with"]
        classes = "-".join(type(one).__name__ for one in (self.model, self.datamodule) if one is not None)
        name = self.config[self.command]["run_name"]
        name = (recipes or [classes])[0] if name is None else name
        check_run_name(name)
        return str(name)

    def fit(self, **kwargs: Any) -> None:
        """Trains, then tests the best checkpoint."""
        try:
            check_network(self.model)
            if isinstance(self.datamodule, BaseDataModule) and hasattr(self.datamodule, "train"):
                check_targets(self.model, targets_of(self.datamodule.train))  # read already, for its mean and std
            if self._is_diagnostic_run:
                self._run_diagnostic()
                return
            if self.run and isinstance(self.datamodule, BaseDataModule):
                self.datamodule.write_split(self.run.path)
            parameters = sum(parameter.numel() for parameter in self.model.parameters())
            kept = self.run.path if self.run else "no files are written"
            say(f"{type(self.model).__name__}, {parameters:,} parameters: {kept}")
            if self._is_trainable:
                if self.run and self.is_trained:
                    say("training is complete: finishing the plots and the test")
                    self.run.resume.is_trained = True
                self.trainer.fit(**kwargs | {"ckpt_path": self.checkpoint, "weights_only": True})
            else:
                self._save_untrained_model(**kwargs)
        except BaseException as error:
            self._clean_up()
            if "conditioned on metric" in str(error):  # a wrong --early_stopping.monitor; RuntimeError to Lightning
                raise ValueError(str(error)) from error
            if describe_anomaly(error):
                raise ValueError("; ".join(error.__notes__)) from error
            raise
        print_early_stop_reason(self.trainer, self.run.path if self.run and self._saves else None)
        if self.run and self.run.resume.interrupted:
            say("trained to the end; test it with: " + as_command("kindling", "test --ckpt_path", self.run.path))
            return
        if self._tests:
            self._drop_averaging()
            self.test(**kwargs | {"ckpt_path": self._tested})
        if self.run:
            print_next_steps(self.trainer, self.run.path, self._is_trainable, self._has("predict"))

    def _has(self, stage: str) -> bool:
        return has_stage(self.model, self.datamodule, stage)

    def _check_has(self, stage: str) -> None:
        if missing := missing_methods(self.model, self.datamodule, stage):
            raise ValueError(f"{self.command} needs {' and '.join(missing)}, which is missing: define it there")

    @property
    def _tests(self) -> bool:
        """Whether `fit` tests at its end."""
        return bool(self.config[self.command].get("test_after_fit", True)) and self._has("test")

    @property
    def _is_diagnostic_run(self) -> bool:
        """Whether a trial takes the place of the training."""
        return bool(self.command == "fit" and diagnostics.is_wanted(self.config["fit"]))

    def _run_diagnostic(self) -> None:
        if not isinstance(self.model, BaseTask) or self.datamodule is None:
            name = type(self.model).__name__
            raise UsageError(
                f"--overfit and --find_lr need one of Kindling's tasks with a data module, and {name} is none"
            )
        picture = RUNS / self._run_name() / "lr_finder.png"
        typed = shlex.split(self.typed)[2:]
        had = self.epochs_had
        if self.checkpoint and 0 <= (self.trainer.max_epochs or -1) <= had:
            typed += ["--trainer.max_epochs", str(2 * had)]  # a run goes on for more epochs only
        diagnostics.run_diagnostic(self.model, self.datamodule, self.config_init["fit"], picture, typed)

    @property
    def _is_trainable(self) -> bool:
        """Whether there is something to train: an ensemble has nothing."""
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def _save_untrained_model(self, **kwargs: Any) -> None:
        """Makes the checkpoint of a model whose parts have been trained before, and measures it."""
        if self.run:
            self.run.record.begin(self.trainer)
        metrics = self.trainer.validate(**kwargs | {"ckpt_path": None, "verbose": False})[0]
        say(results_table("validation split", metrics))
        if self.run and self._best:
            self._best.best_model_path = f"{self._best.dirpath}/best.ckpt"
            self.trainer.save_checkpoint(self._best.best_model_path)
        if self.run:
            self.run.record.finish_untrained(metrics)

    @property
    def _best(self) -> BestCheckpoint | None:
        """What keeps the best checkpoint; None where no checkpoints are saved."""
        keeper = self.trainer.checkpoint_callback
        return keeper if isinstance(keeper, BestCheckpoint) else None

    @property
    def _tested(self) -> str | None:
        """The checkpoint that `fit` tests; None for the weights as they are."""
        if not (self.run and self._best):
            return None
        return self._best.best_model_path or f"{self._best.dirpath}/last.ckpt"

    def _drop_averaging(self) -> None:
        """Remove callbacks that average weights: in the test they would put the raw weights of a checkpoint back."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]

    def _clean_up(self) -> None:
        if self.run:
            self.run.clean_up(began=hasattr(self, "trainer") and self.trainer.global_step > 0)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate the checkpoint on the validation split."""
        self._check_has("val")
        metrics = self.trainer.validate(**kwargs | {"ckpt_path": self.checkpoint, "verbose": False})[0]
        say(results_table(f"validation split, {self.checkpoint}", metrics))

    def test(self, **kwargs: Any) -> None:
        """Evaluate the checkpoint on the test split and write the results into its run folder."""
        self._check_has("test")
        checkpoint = kwargs["ckpt_path"] or (None if self.command == "fit" else self.checkpoint)
        metrics = self.trainer.test(**kwargs | {"ckpt_path": checkpoint, "verbose": False})[0]
        tried = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        what = checkpoint or ("a few batches after a trial run" if tried else "weights at the end of training")
        say(results_table(f"test split, {what}", metrics))
        if not checkpoint and self.run:
            checkpoint = self.run.path / "checkpoints" / what  # says where the results belong, and what was tested
        if checkpoint and not tried:
            report = save_test_results(
                Path(checkpoint), metrics, self.collected, self.model, self.datamodule, self.typed
            )
            if report:
                say(f"report: {report}")
            if self.run:
                self.run.record.mark_tested()

    def predict(self, **kwargs: Any) -> None:
        """Write the predictions of a checkpoint into its run folder."""
        assert self.checkpoint is not None
        self._check_has("predict")
        if self.trainer.world_size > 1:
            raise ValueError("predict keeps the order of the rows and needs one device: --trainer.devices 1")
        if not is_writable(run_folder_of(self.checkpoint)) and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise not_written(run_folder_of(self.checkpoint), "read-only")  # before minutes of predicting
        with self._explaining_forward():
            batches: Any = self.trainer.predict(**kwargs | {"ckpt_path": self.checkpoint})
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        written, number = save_predictions(self.checkpoint, batches, self.model, self.datamodule)
        say(f"{number:,} predictions: {written}")

    @contextmanager
    def _explaining_forward(self) -> Iterator[None]:
        """Report that a model needs a `predict_step` where its `forward` does not take a batch as it is."""
        try:
            yield
        except (TypeError, AttributeError, RuntimeError) as error:
            if is_overridden("predict_step", self.model, LightningModule):
                raise
            name = type(self.model).__name__
            raise ValueError(
                f"{name} has no predict_step, and its forward does not take a whole batch: define predict_step(self, "
                f"batch, batch_idx) in {name} ({shorten(str(error), 100)})"
            ) from error


def run(command: str, options: Sequence[str]) -> None:
    """Runs `fit`, `validate`, `test` or `predict` with the options as typed."""
    silence_libraries()
    words = [word for each in options for word in (["-h", "all"] if each in ("-h=all", "--help=all") else [each])]
    is_extra = [word == "all" and before in ("-h", "--help") for before, word in pairwise(["", *words])]
    KindlingArgumentParser.shows_all = any(is_extra)
    options = [word for word, extra in zip(words, is_extra, strict=True) if not extra]
    end_with_parent()
    watch_parents()
    with sigterm_as_interrupt():
        KindlingCLI(command, options)
