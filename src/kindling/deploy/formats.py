"""The formats of exported files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kindling.deploy.export_wrapper import Compute, ExportWrapper, Inputs
from kindling.deploy.model_card import ModelCard
from kindling.deploy.onnx_file import read_onnx, write_onnx
from kindling.deploy.torch_files import (
    read_torch_export,
    read_torchscript,
    read_torchserve,
    write_torch_export,
    write_torchscript,
    write_torchserve,
)
from kindling.utils.optional import require_extra

Write = Callable[[ExportWrapper, Inputs, ModelCard, Path], None]


class Format(NamedTuple):
    """A format of exported files.

    Attributes:
        suffix: Suffix of its files.
        write: Writes a model, given two samples to trace it with, and its card.
        read: Returns a function that computes with a file.
        legacy: Why new projects should not use it.
        needs: Name of an extra, and its modules that the format needs.
        served_only: Whether it only supports models that can be served: classification or regression with one input.
        takes_columns: Whether its files take the columns of a table, and encode them.
        write_raw: Writes a model of images that takes photographs of any size, if the format can contain that.
    """

    suffix: str
    write: Write
    read: Callable[[Path], Compute]
    legacy: str = ""
    needs: tuple[str, ...] = ()
    served_only: bool = False
    takes_columns: bool = False
    write_raw: Write | None = None

    def check(self, model: ExportWrapper) -> None:
        """Raise ImportError if a module that the format needs is missing, ValueError if it is for other models."""
        if self.needs:
            require_extra(*self.needs)
        if self.served_only and (model.task is None or len(model.inputs) > 1):
            name = type(model.model).__name__
            problem = "has several inputs" if model.task else "is neither"
            raise ValueError(
                f"a {self.suffix} file is for classifiers and regression models with one input, and {name} {problem}: "
                "use --format onnx"
            )


FORMATS = {
    "onnx": Format(
        ".onnx",
        write_onnx,
        read_onnx,
        needs=("export", "onnx", "onnxscript", "onnxruntime"),
        takes_columns=True,
        write_raw=partial(write_onnx, raw=True),
    ),
    "torch_export": Format(".pt2", write_torch_export, read_torch_export),
    "torchscript": Format(".pt", write_torchscript, read_torchscript, legacy="TorchScript is deprecated in torch"),
    "torchserve": Format(
        ".mar",
        write_torchserve,
        read_torchserve,
        legacy="TorchServe had its last release in 2024",
        needs=("torchserve", "model_archiver"),
        served_only=True,
    ),
}
