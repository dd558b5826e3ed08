"""Trains one baseline of `benchmark.py tables` and writes its predictions, as a process of its own.

    python scripts/table_baselines.py METHOD TRAIN TEST TARGET SEED OUT

TRAIN and TEST are CSV files. The predictions have the columns of Kindling's: for numbers target and prediction, for
classes label, prediction and the probability of each class. The last line printed has the seconds of training, without
imports. Each method imports only what it needs, as the whole process is timed too.
"""

import json
import sys
import time
from typing import Any

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

MAX_CATEGORIES = 50  # of a column, one-hot; the rarer ones share a feature


def boosting(numbers: list[str], texts: list[str], is_classes: bool, seed: int) -> Any:
    """Return scikit-learn's histogram gradient boosting, which handles missing values and categories itself."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind: Any = HistGradientBoostingClassifier if is_classes else HistGradientBoostingRegressor
    categories = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=float("nan"), max_categories=250, dtype=float
    )
    encoded = make_column_transformer((categories, texts), ("passthrough", numbers))
    return make_pipeline(encoded, kind(categorical_features=[*range(len(texts))], random_state=seed))


def linear(numbers: list[str], texts: list[str], is_classes: bool, seed: int) -> Any:
    """Return logistic or ridge regression with a regularization chosen by cross-validation."""
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV

    scaled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES)
    encoded = make_column_transformer((scaled, numbers), (one_hot, texts), sparse_threshold=0)
    if is_classes:
        model = LogisticRegressionCV(Cs=5, cv=3, max_iter=300, scoring="neg_log_loss", use_legacy_attributes=False)
    else:
        model = RidgeCV(alphas=[0.01, 0.1, 1, 10, 100])
    return make_pipeline(encoded, model)


class RealMLP:
    """RealMLP-TD-S of pytabkit; missing numbers are replaced by the median and marked."""

    def __init__(self, numbers: list[str], texts: list[str], is_classes: bool, seed: int) -> None:
        from pytabkit import RealMLP_TD_S_Classifier, RealMLP_TD_S_Regressor

        kind: Any = RealMLP_TD_S_Classifier if is_classes else RealMLP_TD_S_Regressor
        self.model = kind(device="cpu", random_state=seed, n_threads=1)
        categories = make_pipeline(
            SimpleImputer(strategy="constant", fill_value="missing"),
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        )
        imputed = SimpleImputer(strategy="median", add_indicator=True)
        self.encode = make_column_transformer((categories, texts), (imputed, numbers), sparse_threshold=0)
        self.texts = len(texts)

    def fit(self, rows: pd.DataFrame, targets: Any) -> "RealMLP":
        """Train on rows and their targets."""
        encoded = pd.DataFrame(self.encode.fit_transform(rows))
        categories = [position < self.texts for position in range(encoded.shape[1])]
        self.model.fit(self._with_categories(encoded), targets, cat_indicator=categories)
        self.classes_ = getattr(self.model, "classes_", None)
        return self

    def predict(self, rows: pd.DataFrame) -> Any:
        """Return classes or numbers."""
        return self.model.predict(self._with_categories(pd.DataFrame(self.encode.transform(rows))))

    def predict_proba(self, rows: pd.DataFrame) -> Any:
        """Return the probability of each class."""
        return self.model.predict_proba(self._with_categories(pd.DataFrame(self.encode.transform(rows))))

    def _with_categories(self, encoded: pd.DataFrame) -> pd.DataFrame:
        return encoded.astype(dict.fromkeys(range(self.texts), int))


METHODS: dict[str, Any] = {"HistGradientBoosting": boosting, "linear": linear, "RealMLP-TD-S": RealMLP}


def main(method: str, train: str, test: str, target: str, seed: str, out: str) -> None:
    """Train and predict."""
    rows, unseen = pd.read_csv(train), pd.read_csv(test)
    features = [name for name in rows if name != target]
    numbers = [name for name in features if pd.api.types.is_numeric_dtype(rows[name].dtype)]
    texts = [name for name in features if name not in numbers]
    for frame in (rows, unseen):
        frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), None)
    is_classes = not (pd.api.types.is_float_dtype(rows[target].dtype) or rows[target].nunique() > 30)
    targets = rows[target].astype(str) if is_classes else rows[target].astype(float)
    model, start = METHODS[method](numbers, texts, is_classes, int(seed)), time.perf_counter()
    model.fit(rows[features], targets.to_numpy())
    print(json.dumps({"seconds": time.perf_counter() - start}))
    table = pd.DataFrame(
        {"label" if is_classes else "target": unseen[target], "prediction": model.predict(unseen[features])}
    )
    if is_classes:
        table[[f"p({name})" for name in model.classes_]] = model.predict_proba(unseen[features])
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
