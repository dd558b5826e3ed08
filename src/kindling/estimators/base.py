"""Base of the estimators for tables: checks, training, prediction and saving."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from lightning.pytorch import seed_everything
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from typing_extensions import override

from kindling.data import TableDataModule
from kindling.data.tables.rows import encode_rows
from kindling.estimators.recipe import Recipe
from kindling.estimators.samples import are_texts, as_frame
from kindling.estimators.training import fit_model, undisturbed
from kindling.runs.checkpoints import save

if TYPE_CHECKING:
    from pandas import DataFrame

BATCH_SIZE = 1024  # of predictions


@dataclass(kw_only=True, eq=False, repr=False)
class TableEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of the estimators for tables; the arguments are those of `TableRegressor`."""

    task: ClassVar[Literal["classification", "regression"]]

    recipe: str = "table_mlp"
    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    model_options: dict[str, Any] | None = None
    validation_fraction: float | None = None
    accelerator: str = "auto"
    random_state: Any = None
    verbose: bool = False

    @override
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.target_tags.required = True
        return tags

    def _check(self, samples: Any, targets: Any) -> tuple["DataFrame", NDArray[Any]]:
        """Return samples (N, F) and targets (N,), which are checked."""
        is_numeric = self.task == "regression" and not are_texts(targets)
        checked: NDArray[Any] = validate_data(self, y=targets, y_numeric=is_numeric)
        frame = as_frame(self, samples, fits=True)
        check_consistent_length(frame, checked)
        return frame, checked

    def _train(self, frame: "DataFrame", targets: NDArray[Any], name: object, **options: Any) -> Self:
        """Train on samples (N, F) and targets (N,); `name` is that of the target, `options` are of the model."""
        target = str(name or "target")
        while target in frame:
            target += "_"
        recipe = Recipe(self.recipe)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with undisturbed(self.verbose):
            seed_everything(seed, verbose=False)
            data = TableDataModule.of_frame(
                frame.assign(**{target: targets}), target, task=self.task, **self._data_options(recipe, seed)
            )
            cls, arguments = recipe.model(self.task, self.model_options or {}, self.learning_rate)
            model = cls.for_data(data, **arguments | options)
            trainer = recipe.trainer | {"accelerator": self.accelerator}
            if self.max_epochs is not None:
                trainer["max_epochs"] = self.max_epochs
            self._checkpoint = fit_model(model, data, recipe.callbacks(), self.verbose, **trainer)
        self.model_, self.columns_, self.left_out_ = model, data.fitted["columns"], data.fitted["left_out"]
        return self

    def _data_options(self, recipe: Recipe, seed: int) -> dict[str, Any]:
        given = {"batch_size": self.batch_size, "val_split": self.validation_fraction}
        return recipe.data | {"split_seed": seed} | {name: one for name, one in given.items() if one is not None}

    def _outputs(self, samples: Any) -> torch.Tensor:
        """Return the predictions of the model for samples (N, F): probabilities (N, classes), or values (N,)."""
        check_is_fitted(self)
        frame: DataFrame = as_frame(self, samples, fits=False)
        with undisturbed(self.verbose), torch.inference_mode():
            inputs = torch.from_numpy(encode_rows(frame, self.columns_, "X"))
            parts = [self.model_.to_prediction(self.model_(part)) for part in torch.split(inputs, BATCH_SIZE)]
        return torch.cat(parts)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, which `kindling.load`, `kindling serve` and `kindling export` take; create its folder."""
        check_is_fitted(self)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save(self._checkpoint | {"state_dict": self.model_.state_dict()}, Path(path))
