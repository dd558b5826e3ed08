"""The engine of Kindling: models, data modules, training, run folders, export and serving."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kindling.data import (
        BaseDataModule,
        ClassificationDataModule,
        DigitsDataModule,
        ImageFolderDataModule,
        MNISTDataModule,
        StreamingDataModule,
        SyntheticDataModule,
        TableDataModule,
    )
    from kindling.deploy.predictor import MultiLabelPrediction, Prediction, Predictor, RegressionPrediction, load
    from kindling.models import (
        BaseTask,
        ClassificationTask,
        CNNClassifier,
        CNNMultiLabelClassifier,
        CNNRegressor,
        EnsembleClassifier,
        EnsembleMultiLabelClassifier,
        EnsembleRegressor,
        MLPClassifier,
        MLPMultiLabelClassifier,
        MLPRegressor,
        MultiLabelTask,
        RegressionTask,
        TabMClassifier,
        TabMRegressor,
        TransferClassifier,
        TransferMultiLabelClassifier,
        TransferRegressor,
    )
    from kindling.tuning import find_lr, overfit_batch

__version__ = "0.1.0"

__all__ = [
    "BaseDataModule",
    "BaseTask",
    "CNNClassifier",
    "CNNMultiLabelClassifier",
    "CNNRegressor",
    "ClassificationDataModule",
    "ClassificationTask",
    "DigitsDataModule",
    "EnsembleClassifier",
    "EnsembleMultiLabelClassifier",
    "EnsembleRegressor",
    "ImageFolderDataModule",
    "MLPClassifier",
    "MLPMultiLabelClassifier",
    "MLPRegressor",
    "MNISTDataModule",
    "MultiLabelPrediction",
    "MultiLabelTask",
    "Prediction",
    "Predictor",
    "RegressionPrediction",
    "RegressionTask",
    "StreamingDataModule",
    "SyntheticDataModule",
    "TabMClassifier",
    "TabMRegressor",
    "TableDataModule",
    "TransferClassifier",
    "TransferMultiLabelClassifier",
    "TransferRegressor",
    "find_lr",
    "load",
    "overfit_batch",
]

PACKAGES = (
    "kindling.models",
    "kindling.data",
    "kindling.deploy.predictor",
    "kindling.tuning",
)


def __getattr__(name: str) -> Any:
    # Imported on first use: `kindling --help` answers in 0.1 s, importing torch and lightning takes seconds.
    if not name.startswith("_"):
        for package in PACKAGES:
            if name in (module := import_module(package)).__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'kindling' has no attribute {name!r}")
