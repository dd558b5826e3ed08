"""Checks that a recipe works."""

import io
import os
import pkgutil
import shutil
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import yaml

from kindling.cli.entry_point import main
from kindling.cli.stage_support import has_stage
from kindling.testing.isolation import isolated


@isolated()
def check_recipe(path: str | Path, *options: str) -> None:
    """Check that a recipe trains, tests and predicts on a few batches, the latter two if its model and data can.

    The run is written to `runs/` of the current folder, and removed.

    Args:
        path: The recipe, or its name.
        *options: More options of `kindling fit`.

    Raises:
        AssertionError: If a command fails, or does not write what it should.
    """
    name = f"check-{Path(path).stem}-{os.getpid()}"
    few = ["--trainer.max_epochs=1", *(f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val", "test"))]
    try:
        _run(path, "fit", "--config", str(path), *few, *options, "--run_name", name)
        run = Path("runs", name, "version_0")
        for file in ("config.yaml", "run.json", "metrics.csv", "checkpoints/best.ckpt"):
            assert (run / file).exists(), f"{path}: kindling fit wrote no {file}"
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        if config["test_after_fit"] and _can(config, "test"):
            assert (run / "test_metrics.json").exists(), f"{path}: kindling fit wrote no test_metrics.json"
        if _can(config, "predict"):
            (run / "predictions.csv").unlink(missing_ok=True)  # of the test
            _run(path, "predict", "--ckpt_path", str(run), "--trainer.limit_predict_batches=2")
            assert list(run.glob("predictions*")), f"{path}: kindling predict wrote no predictions"
    finally:
        shutil.rmtree(Path("runs", name), ignore_errors=True)


def _run(recipe: str | Path, *command: str) -> None:
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            code = main(list(command))
    finally:
        sys.stderr.write(printed.getvalue())
    message = printed.getvalue().strip().rpartition("\n")[2].partition("error: ")[2] or f"exit code {code}"
    assert not code, f"{recipe}: {message} (`kindling {' '.join(command)}`)"


def _can(config: dict[str, Any], stage: str) -> bool:
    """Return whether the model and data in a `config.yaml` have what a stage needs."""
    data = config.get("data")
    data_class = pkgutil.resolve_name(data["class_path"]) if data else None
    return has_stage(pkgutil.resolve_name(config["model"]["class_path"]), data_class, stage)
