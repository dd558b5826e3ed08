"""The joined tests of the folds of a cross-validation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Command
from kindling.evaluation.out_of_fold import OutOfFold
from kindling.runs.repeats import OUTPUTS


@pytest.mark.slow
def test_folds_of_other_samples_are_not_joined(kindling: Command) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.normal(size=60), "kind": ["x", "y"] * 30})
    frame.to_csv("rows.csv", index=False)
    options = "--model MLPClassifier --model.hidden [4] --data TableDataModule --data.path rows.csv --data.target kind"
    result = kindling("repeat", "--folds", 2, *options.split(), "--trainer.max_epochs", 1, "--run_name", "rows")
    assert result.code == 0, result.err
    runs = {fold: Path(f"runs/rows/repeat_0/{fold}/version_0") for fold in ("fold_1", "fold_2")}
    assert len(OutOfFold(runs).targets) == 60
    stored = torch.load(runs["fold_1"] / OUTPUTS, weights_only=True)
    torch.save({**stored, "rows": ["70", *stored["rows"][1:]]}, runs["fold_1"] / OUTPUTS)
    with pytest.raises(ValueError, match=r"rows.csv changed since the folds were tested: run `kindling repeat` again"):
        OutOfFold(runs)
