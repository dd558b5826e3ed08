"""`kindling fit`, `validate`, `test` and `predict`: LightningCLI with run folders and checkpoints found by name."""

import inspect
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback, _InstantiatorFn
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from kindling.cli.checkpoint_config import config_from_checkpoint, epochs_completed, is_training_complete, load_weights
from kindling.cli.option_checks import (
    apply_barebones,
    check_devices,
    check_nulls,
    check_run_name,
    check_seed,
    check_trainer,
    draw_seed,
)
from kindling.cli.options import KindlingArgumentParser, add_fit_options, check_nonempty_run, given_model_arguments
from kindling.cli.parser_errors import CLASS_MISSING, NO_NAMES, one_line
from kindling.cli.recipes import find_recipes
from kindling.cli.session import RunSession
from kindling.cli.summary import print_early_stop_reason, print_next_steps
from kindling.cli.yaml_files import check_typed, read_yaml
from kindling.data import BaseDataModule
from kindling.data.loading import targets_of
from kindling.evaluation.outputs import is_writable, not_written, save_predictions, save_test_results
from kindling.models.infer import infer_arguments, with_shape
from kindling.models.loading import check_trained
from kindling.models.sanity_check import check_network, check_targets
from kindling.models.task import DATA_ARGUMENTS, BaseTask
from kindling.runs.checkpoint_contents import restoring
from kindling.runs.checkpoints import read, restore_last
from kindling.runs.find import find_checkpoint
from kindling.runs.folders import RUNS, run_folder_of
from kindling.runs.trust import sign
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
from kindling.utils.errors import UsageError, UsageErrorParser
from kindling.utils.files import atomic_write
from kindling.utils.hyperparameters import record_arguments
from kindling.utils.plugins import load_plugins
from kindling.utils.text import program_name, shorten

ARGUMENT = "model.init_args."  # before the name of an argument of the model in links of the parser


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` when the training begins: a run that can't go on keeps the one it has."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" and not self.already_saved:
            super().setup(trainer, pl_module, stage)
            path = Path(trainer.log_dir or ".") / self.config_filename
            if trainer.is_global_zero:
                sign(path)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.log_dir or ".") / "config.yaml"  # asked in all processes: they tell it to each other
        with atomic_write(path) if trainer.is_global_zero else nullcontext(path) as written:
            self.config_filename = written.name
            super().setup(trainer, pl_module, "fit")
            if trainer.is_global_zero:
                sign(written)


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
        self.checkpoint: Path | None = None
        self.stored: dict[str, Any] = {}  # what the checkpoint holds; the Trainer takes it over
        self.epochs_had = 0  # by the checkpoint
        self.run: RunSession | None = None
        self.is_trained = False  # whether the run that is resumed lacks only what follows its training
        self.collected = TestOutputCollector()
        self.failure: Exception | None = None  # of the model or the data module
        self._data: LightningDataModule | None = None  # as soon as it is built: the model may be built from it
        self._read_sources(load_plugins(options))
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
        return {self.command: LightningCLI.subcommands()[self.command]}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.command == "fit":
            add_fit_options(parser, self.given, self._of_data)

    def _of_data(self, name: str, data: LightningDataModule | None) -> Any:
        with self._keeping_the_error():
            return getattr(data, name, None)

    def _read_sources(self, options: Sequence[str]) -> None:
        """Read what the command line names: recipes, and the checkpoint with the configuration of its run."""
        typed = [re.sub(r"^\?$|(?<==)\?$", '"?"', value) for value in options]  # to YAML ? alone is {null: null}
        typed = find_recipes(typed)
        check_typed(typed)
        finder = UsageErrorParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--ckpt_path")
        finder.add_argument("-c", "--config", action="append", default=[])
        where = finder.parse_known_args(typed)[0]
        self.configs = [Path(config) for config in where.config]
        files = [read_yaml(path) for path in self.configs if path.is_file()]
        stored: dict[str, Any] = {}
        if where.ckpt_path is not None:
            self.checkpoint = find_checkpoint(where.ckpt_path, prefer="last" if self.command == "fit" else "best")
            self.stored = restore_last(self.checkpoint) if self.command == "fit" else read(self.checkpoint)
            stored = config_from_checkpoint(self.checkpoint, self.stored, self.command, typed, self.configs)
        elif self.command != "fit" and not {"-h", "--help"}.intersection(typed):
            raise UsageError(f"{self.command} needs a trained model: --ckpt_path best, last, a run folder or a file")
        self.given = set(given_model_arguments(typed, [*files, stored])).intersection(DATA_ARGUMENTS)
        self.typed_options = typed
        self.arguments = [*(["--config", yaml.safe_dump(stored)] if stored else []), *typed]

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        command = self.command
        try:
            self.config = parser.parse_args([command, *self.arguments])
        except ArgumentError as error:
            known = self._parser(command).get_defaults().keys(branches=True)
            raise UsageError(one_line(str(error), known, self.typed_options)) from error
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
        names = {option.split("=")[0] for option in self.typed_options}
        schedule = self.config[self.command].get("model.init_args.lr_scheduler")
        peak = schedule and schedule.class_path.endswith(".OneCycleLR") and schedule.get("init_args.max_lr")
        if (
            peak
            and "--model.optimizer.lr" in names
            and not any(each.startswith("--model.lr_scheduler") for each in names)
        ):
            raise UsageError(
                f"--model.optimizer.lr has no effect with OneCycleLR, whose max_lr is {peak}: add --model.lr_scheduler "
                "OneCycle, or type --model.lr_scheduler.max_lr"
            )

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            if self.failure is None or error is self.failure:
                raise
            raise self.failure from None

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        with restoring(self.checkpoint):
            super()._run_subcommand(subcommand)

    @override
    def _add_instantiators(self) -> None:
        assert isinstance(self.parser, KindlingArgumentParser)
        self.parser.instantiators = [
            (self._create_model, LightningModule, True),
            (self._create_data, LightningDataModule, True),
        ]

    def _create_data(
        self, kind: type[LightningDataModule], *args: Any, applied_instantiation_links: Any, **kwargs: Any
    ) -> LightningDataModule:
        create = _InstantiatorFn(cli=self, key="data")
        with self._keeping_the_error():
            data = create(kind, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
        self._data = data
        record_arguments(data, kind, self._plain_arguments("data"))
        if self.checkpoint and self.command == "fit" and isinstance(data, BaseDataModule):
            # At once: the model will ask for the shape of its inputs.
            data.begin_with(self.stored.get(kind.__qualname__, {}))
        return data

    def _create_model(
        self, kind: type[LightningModule], *args: Any, applied_instantiation_links: dict[str, Any], **kwargs: Any
    ) -> LightningModule:
        links = applied_instantiation_links
        with self._keeping_the_error():
            self._complete(kind, kwargs, links)

        def create(**inferred: Any) -> LightningModule:
            known = links | {f"{ARGUMENT}{name}": value for name, value in inferred.items()}
            create = _InstantiatorFn(cli=self, key="model")
            return create(kind, *args, applied_instantiation_links=known, **kwargs | inferred)

        is_task = issubclass(kind, BaseTask) and self.command == "fit"
        model = with_shape(create, self._data) if is_task else create()
        record_arguments(model, kind, self._plain_arguments("model") | {_argument(key): links[key] for key in links})
        return model

    def _complete(self, kind: type[LightningModule], kwargs: dict[str, Any], links: dict[str, Any]) -> None:
        """Check which arguments of a model come from its data, and remove those that do not; both are changed in place.

        In `fit`, what the data module does not have and the model requires is read from training samples.

        Raises:
            UsageError: If the data does not tell one that the model needs.
        """
        data = self.config[self.command]["data"]
        if issubclass(kind, BaseTask) and data is None:
            raise UsageError(f"--data must be given: {kind.__name__} has no data of its own")
        for key, value in [*links.items()]:
            if value is None or _argument(key) not in kwargs:  # the data does not have it, or the class
                del links[key]
        linked, missing = {_argument(key): key for key in links}, []
        for name in set(DATA_ARGUMENTS).intersection(kwargs) - self.given:  # the parser asks for none of them
            is_optional = default_of(kind, name) is not inspect.Parameter.empty
            if name in linked and is_optional and not issubclass(kind, BaseTask):
                del links[linked.pop(name)], kwargs[name]  # it may mean something else by the same name
            if name not in linked and kwargs[name] is None:
                missing += [name] * (not is_optional)
                del kwargs[name]
        if missing:
            found = self._infer(kind, missing, known={*linked, *self.given})
            kwargs.update(found)
            links.update({f"{ARGUMENT}{name}": value for name, value in found.items()})

    def _infer(self, kind: type[LightningModule], missing: Collection[str], known: Collection[str]) -> dict[str, Any]:
        """Read required arguments of a model from training samples, and the names of the classes with their number."""
        also = {"class_names", "input_shape"}.intersection(kind.data_arguments if issubclass(kind, BaseTask) else ())
        wanted = [name for name in DATA_ARGUMENTS if name in missing or name in also.difference(known)]
        found = infer_arguments(self._data, wanted) if self._data and self.command == "fit" else {}
        if not found.keys() >= set(missing):
            lacking = [name for name in wanted if name not in found and name != "class_names"]
            why = f", which {type(self._data).__name__} does not have" if self._data else ""
            options = " ".join(f"--model.{name} VALUE" for name in lacking)
            raise UsageError(f"{kind.__name__} needs {' and '.join(lacking)}{why}: add {options}")
        return {name: value for name, value in found.items() if name in missing or name == "class_names"}

    @contextmanager
    def _keeping_the_error(self) -> Iterator[None]:
        """Keep an error that the parser would wrap."""
        try:
            yield
        except Exception as error:
            self.failure = error
            raise

    def _plain_arguments(self, key: str) -> dict[str, Any]:
        """Return the arguments of the model or data module as plain values."""
        config = self.config_dump.get(key) or {}
        return {**config.get("init_args", {}), **config.get("dict_kwargs", {})}

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        load_weights(self.model, self.datamodule, self.checkpoint, self.stored)
        if self.checkpoint and self.command == "fit":
            if not self._is_diagnostic_run:  # which does not go on
                self.is_trained = is_training_complete(self.checkpoint, self.stored, self.config["fit"])
        elif self.checkpoint:
            check_trained(self.checkpoint, self.stored)
        config = self.config_init[self.command]["trainer"]
        check_trainer(config)
        check_nonempty_run(self.command, config, self._tests, self._is_trainable)
        keeps = not (config["barebones"] or config["fast_dev_run"])
        if config["barebones"]:
            apply_barebones(config)
        callbacks: list[Callback] = [AtLeastOneBatch()]
        if config["enable_progress_bar"] is not False and not has_progress_bar(config["callbacks"]):
            callbacks.append(ProgressBar())
        kwargs["logger"] = False
        if self.command == "fit":
            watch = self.config["fit"]["watch"]
            callbacks += [TerminateOnNaN(wait=watch), *([LayerHealthMonitor()] if watch else [])]
        if self.command == "fit" and keeps and not self._is_diagnostic_run:
            self.run = self._open_run()
            kwargs |= {
                "default_root_dir": self.run.path,
                "logger": self.run.loggers(config["logger"], self.stored.get("global_step")),
            }
            callbacks += [each for each in self.run.callbacks() if self._saves or each is not self.run.resume]
            if kwargs["logger"]:
                self.collected = Dashboard()
            if self.config["fit"]["profile"]:
                kwargs["profiler"] = rank_zero_only(EpochProfiler)(self.run.path)
                self.config["fit"]["profile"] = False  # what repeats or continues the run is not profiled too
        else:
            self.save_config_callback = None
            kept = self.command == "test" and self.checkpoint and not config["fast_dev_run"]
            if self.checkpoint and kept and is_writable(run_folder_of(self.checkpoint)):
                self.collected = dashboard_of(self.checkpoint, self.stored["global_step"]) or self.collected
        self.trainer_defaults["callbacks"] = [*callbacks, self.collected]
        config["strategy"] = replace_spawn(config["strategy"])
        if isinstance(config["strategy"], str):
            self.config[self.command]["trainer"]["strategy"] = config["strategy"]  # for config.yaml
        try:
            trainer = super().instantiate_trainer(**kwargs)
            check_devices(trainer)
            loaded = (self.checkpoint, self.stored) if self.checkpoint and not self._is_diagnostic_run else None
            write_atomically(trainer.strategy, self.run.path if self.run else None, loaded)
            self.epochs_had, self.stored = epochs_completed(self.stored), {}
            watch_processes(trainer, self._clean_up)
            return trainer
        except BaseException as error:  # Ctrl-C leaves no empty folder either
            self._clean_up()
            if isinstance(error, TypeError | RuntimeError):  # of values that the Trainer does not take
                raise ValueError(f"the Trainer can't be built: {error}") from error
            raise

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
        run = RunSession.open(name, self.checkpoint, self.configs, self.typed)
        saving = self.config["fit"]["checkpoint"]
        run.resume.every_n_minutes, run.resume.every_n_steps = saving["every_n_minutes"], saving["every_n_steps"]
        if run.is_new:
            self.config["fit"]["run_name"] = name  # so that config.yaml repeats the run under this name
        return run

    def _run_name(self) -> str:
        recipes = [config.stem for config in self.configs if config.parent.name != "with"]
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


def _argument(link: str) -> str:
    """Return the name of the model's argument that a link of the parser sets."""
    return link.rpartition(".")[2]


Model = LightningModule | type[LightningModule]
Data = LightningDataModule | type[LightningDataModule] | None


def has_stage(model: Model, data: Data, stage: str) -> bool:
    """Return whether a model and its data, or their classes, have what a stage (val, test or predict) needs."""
    return not missing_methods(model, data, stage)


def missing_methods(model: Model, data: Data, stage: str) -> list[str]:
    """Return the methods that a stage (val, test or predict) needs and that a model and its data lack, with the class.

    Examples:
        >>> missing_methods(LightningModule, LightningDataModule, "test")
        ['test_step in LightningModule', 'test_dataloader in LightningDataModule']
    """
    step, loader = "validation_step" if stage == "val" else f"{stage}_step", f"{stage}_dataloader"
    steps = [step, "forward"] if stage == "predict" else [step]  # Lightning's own predict_step calls forward
    has_step = any(is_overridden(each, model, LightningModule) for each in steps)
    has_loader = is_overridden(loader, model, LightningModule) or is_overridden(loader, data, LightningDataModule)
    owner = model if data is None else data
    return [f"{step} in {_name_of(model)}"] * (not has_step) + [f"{loader} in {_name_of(owner)}"] * (not has_loader)


def _name_of(one: object) -> str:
    return one.__name__ if isinstance(one, type) else type(one).__name__


def default_of(cls: type, name: str) -> Any:
    """Return the default of an argument of a class or of the base that it passes it to; empty if it has none."""
    signatures = (inspect.signature(vars(one)["__init__"]).parameters for one in cls.__mro__ if "__init__" in vars(one))
    return next((found[name].default for found in signatures if name in found), inspect.Parameter.empty)


def run(command: str, options: Sequence[str]) -> None:
    """Runs `fit`, `validate`, `test` or `predict` with the options as typed."""
    silence_libraries()
    end_with_parent()
    watch_parents()
    with sigterm_as_interrupt():
        KindlingCLI(command, options)
