"""The files that a model is written to, and how each of them is read back and asked."""

import importlib.util
import inspect
import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from kindling.deploy.external import check_one_file
from kindling.deploy.predictor import ModelCard, Predictor
from kindling.models import BaseTask, ClassificationTask
from kindling.utils.optional import require_extra
from kindling.utils.text import program_name

Inputs = tuple[Tensor, ...]  # raw inputs: one, (N, *input_shape), or several
Outputs = tuple[Tensor, ...]  # probabilities and logits, (N, classes) each; or what the model predicts, (N, ...)
Compute = Callable[..., Outputs]  # takes the inputs one by one

CARD = "card.json"  # in the formats of torch
FIELDS = {field.name for field in fields(ModelCard)}


class ExportWrapper(nn.Module):
    """A model from raw inputs to predictions: probabilities and logits, or what `to_prediction` returns.

    Attributes:
        inputs: Names of the inputs: of several, those of a dictionary or of the network's arguments.
        outputs: Names of the outputs.

    Args:
        model: The trained model.
    """

    def __init__(self, model: BaseTask) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.classifies = isinstance(model, ClassificationTask)
        example = model.example_inputs()
        self.by_name = isinstance(example, dict)
        self.inputs = list(example) if self.by_name else ["inputs"]
        if isinstance(example, tuple | list) and len(example) > 1:
            self.inputs = list(inspect.signature(model.network.forward).parameters)[: len(example)]
        self.outputs = ["probabilities", "logits"] if self.classifies else self._name_outputs(example)

    @torch.no_grad()
    def _name_outputs(self, example: Any) -> list[str]:
        predictions = self.model.eval().to_prediction(self.model(example))
        if isinstance(predictions, Tensor):
            return ["predictions"]
        if not all(isinstance(leaf, Tensor) for leaf in tree_leaves(predictions)):
            name = type(self.model).__name__
            raise ValueError(
                f"{name}.to_prediction returns a {type(predictions).__name__}: only tensors can be exported"
            )
        if isinstance(predictions, dict):
            return list(predictions)
        return [f"predictions_{number}" for number in range(len(tree_leaves(predictions)))]

    @override
    def forward(self, *inputs: Tensor) -> Outputs:
        said = self.model(**dict(zip(self.inputs, inputs, strict=True))) if self.by_name else self.model(*inputs)
        return (said.softmax(dim=1), said) if self.classifies else tuple(tree_leaves(self.model.to_prediction(said)))


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        suffix: Of its name.
        write: Writes a model, given two samples to trace it with and its card.
        read: Gives what the file computes.
        legacy: Why it should not be chosen any more.
        needs: The extra that it needs, and the modules of it that must be installed.
        classes_only: Whether only classifiers with one input can be written.
    """

    suffix: str
    write: Callable[[ExportWrapper, Inputs, ModelCard, Path], None]
    read: Callable[[Path], Compute]
    legacy: str = ""
    needs: tuple[str, ...] = ()
    classes_only: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether all modules that it needs are installed."""
        return all(map(importlib.util.find_spec, self.needs[1:]))


def _any_batch(example: Inputs) -> dict[str, Any]:
    """Return what tells torch that a batch may be of any size."""
    batch = torch.export.Dim("batch")
    return {"inputs": tuple({0: batch} for _ in example)}


def write_onnx(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path) -> None:
    """ONNX, for onnxruntime in any language; the card is in its metadata, an entry a field."""
    require_extra(*FORMATS["onnx"].needs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name")  # of several inputs, whose batches are of one size
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            input_names=model.inputs,
            output_names=model.outputs,
            dynamic_shapes=_any_batch(example),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in card.as_dict().items()})
    program.save(path, external_data=False)


def read_onnx(path: Path) -> Compute:
    """Computes with onnxruntime."""
    session = onnx_session(path)

    names = [each.name for each in session.get_inputs()]

    def compute(*inputs: Tensor) -> Outputs:
        arrays = (each.numpy() for each in inputs)
        return tuple(map(torch.from_numpy, session.run(None, dict(zip(names, arrays, strict=True)))))

    return compute


def onnx_session(path: Path) -> Any:
    """Opens a file with onnxruntime.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no model in ONNX.
    """
    require_extra("export", "onnxruntime")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: {program_name()} export writes one")
    import onnxruntime

    check_one_file(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # each of its errors is a class of its own
        raise ValueError(f"{path} is damaged or no model in ONNX") from error


def load_onnx(path: Path) -> Predictor:
    """A predictor that computes with an exported file, as `kindling.load` gives one of a checkpoint.

    Raises:
        ValueError: If the file was not exported by Kindling, or predicts no classes.
    """
    session = onnx_session(path)
    held = session.get_modelmeta().custom_metadata_map
    try:
        card = {name: json.loads(held[name]) for name in FIELDS & held.keys()}
        about = ModelCard.from_dict(card)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} was not written by {program_name()} export: it does not name its classes") from error
    if not card.get("classifies", True):  # files of earlier versions do not say
        raise ValueError(f"{path} predicts no classes: compute with onnxruntime itself")
    if len(session.get_inputs()) > 1:
        raise ValueError(f"{path} takes several inputs: compute with onnxruntime itself")

    def compute(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["probabilities"], {session.get_inputs()[0].name: inputs.numpy()})[0])

    return Predictor(compute, about)


def write_torch_export(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path) -> None:
    """torch.export, for Python, and for C++ by way of AOTInductor; `torch.export.load(path).module()` reads it."""
    program = torch.export.export(model, example, dynamic_shapes=_any_batch(example))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found in the group")  # the proof would show what was lost
        torch.export.save(program, path, extra_files={CARD: json.dumps(card.as_dict())})


def read_torch_export(path: Path) -> Compute:
    """Computes with what torch.export kept."""
    compute: Compute = torch.export.load(path).module()
    return compute


@contextmanager
def deprecated() -> Iterator[None]:
    """For calls of torch.jit: what it warns of is said by the command, or refuted by the proof."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)  # four batch sizes are compared
        warnings.filterwarnings("ignore", "`torch.jit.*is deprecated", FutureWarning)
        yield


def write_torchscript(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path) -> None:
    """TorchScript, for C++ and for servers that know nothing newer; `torch.jit.load` reads it."""

    def compute(
        *inputs: Tensor,
    ) -> Outputs:  # torch.jit would look at all of a LightningModule, its missing trainer too
        outputs: Outputs = model(*inputs)
        return outputs

    with deprecated():
        # The check of torch.jit compares lines of the source too, which differ for lazy layers; the proof is enough.
        traced = torch.jit.trace(compute, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path), {CARD: json.dumps(card.as_dict())})


def read_torchscript(path: Path) -> Compute:
    """Computes with TorchScript's own interpreter."""
    with deprecated():
        compute: Compute = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return compute


# What the archive for TorchServe carries of this package, so that it needs none of it where it serves.
CARRIED = ("utils/inputs.py", "utils/filetypes.py", "deploy/responses.py")


def write_torchserve(model: ExportWrapper, example: Inputs, card: ModelCard, path: Path) -> None:
    """An archive for TorchServe: TorchScript, and a handler that takes numbers as JSON and image files."""
    require_extra(*FORMATS["torchserve"].needs)
    if not model.classifies or len(model.inputs) > 1:
        wrong = "has several inputs" if model.classifies else "predicts no classes"
        raise ValueError(f"TorchServe is for classifiers with one input, and {card.model} {wrong}: use --format onnx")
    from model_archiver import ModelArchiver, ModelArchiverConfig

    package = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        carried = Path(folder, "carried", "kindling")
        for name in ("__init__.py", "deploy/__init__.py", "utils/__init__.py", *CARRIED):
            (carried / name).parent.mkdir(parents=True, exist_ok=True)
            (carried / name).write_text((package / name).read_text(encoding="utf-8") if name in CARRIED else "")
        write_torchscript(model, example, card, Path(folder, "model.pt"))
        config = ModelArchiverConfig(
            model_name="model",  # the archive's own name may be anything
            version="1.0",
            handler=str(package / "deploy" / "torchserve_handler.py"),
            serialized_file=str(Path(folder, "model.pt")),
            extra_files=str(carried.parent),
            export_path=folder,
        )
        ModelArchiver.generate_model_archive(config)
        shutil.move(Path(folder, "model.mar"), path)


def read_torchserve(path: Path) -> Compute:
    """Computes with what the handler in the archive loads."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        spec = importlib.util.spec_from_file_location("handler", Path(folder, "torchserve_handler.py"))
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handler = module.Handler()
        with deprecated():
            handler.initialize(SimpleNamespace(system_properties={"model_dir": folder, "gpu_id": None}))
    compute: Compute = handler.model
    return compute


FORMATS = {
    "onnx": Format(".onnx", write_onnx, read_onnx, needs=("export", "onnx", "onnxscript", "onnxruntime")),
    "torch_export": Format(".pt2", write_torch_export, read_torch_export),
    "torchscript": Format(".pt", write_torchscript, read_torchscript, "TorchScript is deprecated in torch"),
    "torchserve": Format(
        ".mar",
        write_torchserve,
        read_torchserve,
        "TorchServe had its last release in 2024",
        needs=("torchserve", "model_archiver"),
        classes_only=True,
    ),
}
