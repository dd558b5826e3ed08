"""Files of torch: torch.export, TorchScript, and TorchServe archives, which contain TorchScript."""

import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kindling.deploy.export_wrapper import Compute, ExportWrapper, Inputs, Outputs
from kindling.deploy.model_card import ModelCard
from kindling.deploy.onnx_file import any_batch_size

CARD = "card.json"
# Modules that the handler in a TorchServe archive imports: the archive contains copies, so it needs no Kindling.
HANDLER_MODULES = (
    *("utils/inputs.py", "utils/tensors.py", "utils/filetypes.py", "utils/decision_threshold.py"),
    "deploy/responses.py",
)


def write_torch_export(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path) -> None:
    """Write a torch.export program, for Python, or for C++ through AOTInductor."""
    program = torch.export.export(model, example, dynamic_shapes=any_batch_size(example), strict=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found in the group")  # the comparison would fail
        torch.export.save(program, path, extra_files={CARD: json.dumps(card.as_dict())})


def read_torch_export(path: Path) -> Compute:
    """Return the module of a torch.export program."""
    compute: Compute = torch.export.load(path).module()
    return compute


@contextmanager
def _silence_torchscript() -> Iterator[None]:
    """Ignore the deprecation, which the command mentions, and warnings of the tracer, since outputs are compared."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", "`torch.jit.*is deprecated", FutureWarning)
        yield


def write_torchscript(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path) -> None:
    """Write TorchScript, for C++ and old servers."""

    def compute(*inputs: torch.Tensor) -> Outputs:  # torch.jit fails on a LightningModule without a trainer
        outputs: Outputs = model(*inputs)
        return outputs

    with _silence_torchscript():
        # check_trace also compares source lines, which differ for lazy layers.
        traced = torch.jit.trace(compute, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path), {CARD: json.dumps(card.as_dict())})


def read_torchscript(path: Path) -> Compute:
    """Return the function in a TorchScript file."""
    with _silence_torchscript():
        compute: Compute = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return compute


def write_torchserve(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path) -> None:
    """Write an archive for TorchServe: TorchScript, and a handler that takes numbers as JSON and image files."""
    from model_archiver import ModelArchiver, ModelArchiverConfig

    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "modules", "kindling")
        for name in HANDLER_MODULES:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / name, copy / name)
        for subfolder in (copy, *copy.iterdir()):
            (subfolder / "__init__.py").touch()
        write_torchscript(model, example, card, Path(folder, "model.pt"))
        config = ModelArchiverConfig(
            model_name="model",  # the archive may have any name
            version="1.0",
            handler=str(package / "deploy" / "torchserve_handler.py"),
            serialized_file=str(Path(folder, "model.pt")),
            extra_files=str(copy.parent),
            export_path=folder,
        )
        ModelArchiver.generate_model_archive(config)
        shutil.move(Path(folder, "model.mar"), path)


def read_torchserve(path: Path) -> Compute:
    """Return the function in the TorchScript file of an archive."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        return read_torchscript(Path(archive.extract("model.pt", folder)))
