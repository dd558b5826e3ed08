"""Rows of tables and samples of any data module as shards."""

import csv
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import kindling as package
from conftest import Command
from kindling import StreamingDataModule, SyntheticDataModule, TableDataModule

pytest.importorskip("litdata")

PREPARE = "prepare --out shards --workers 0 --shard_mb 0.002".split()
FIT = "fit --data StreamingDataModule --data.path shards --run_name stream --trainer.max_epochs 3".split()
MLP = "--model MLPClassifier --model.hidden [16]".split()
SYNTHETIC = "--data SyntheticDataModule --data.num_samples 300".split()
RUN = Path("runs/stream/version_0")


@pytest.fixture
def customers(folder: Path) -> pd.DataFrame:
    random = np.random.default_rng(0)
    age, plan = random.integers(18, 80, 300), random.choice(["basic", "plus", "pro"], 300)
    frame = pd.DataFrame({"age": age, "plan": plan, "code": [f"c{row:03}" for row in range(300)]})
    frame["spent"] = np.where(random.random(300) < 0.1, np.nan, random.gamma(2, 50, 300).round(2))
    frame["churned"] = np.where(age + 20 * (plan == "pro") + random.normal(0, 5, 300) > 55, "yes", "no")
    frame.to_csv("customers.csv", index=False)
    return frame


@pytest.fixture(scope="session")
def stored_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored") / "shards"


@pytest.fixture
def shards(kindling: Command, stored_shards: Path) -> Path:
    """Prepare synthetic samples once, and copy them."""
    if not stored_shards.exists():
        assert kindling(*PREPARE, *SYNTHETIC, "--out", stored_shards).code == 0
    return Path(shutil.copytree(stored_shards, "shards"))


def test_a_table_trains_and_predicts_as_in_memory(customers: pd.DataFrame, kindling: Command) -> None:
    result = kindling("prepare", "customers.csv", "--data.target", "churned", *PREPARE[1:])
    assert result.code == 0, result.err
    assert "300 samples (216 train, 24 val, 60 test)" in result.out
    rows, shards = TableDataModule("customers.csv", "churned"), StreamingDataModule("shards")
    for stage in ("fit", "test"):
        rows.setup(stage)
        shards.setup(stage)
    for split in ("val", "test"):
        mine, theirs = getattr(shards, split), getattr(rows, split)
        assert torch.equal(mine.inputs[torch.arange(len(mine))], theirs.inputs)
        assert torch.equal(mine.labels, theirs.labels)
    assert sorted(shards.train.inputs[:].tolist()) == sorted(rows.train.inputs.tolist())
    assert (shards.mean, shards.std) == (rows.mean, rows.std)
    assert (shards.class_names, shards.class_counts) == (rows.class_names, rows.class_counts)
    assert shards.numeric_features == rows.numeric_features

    result = kindling(*FIT, *MLP, "--data.batch_size", "16")
    assert result.code == 0, result.err
    metrics = json.loads((RUN / "test_metrics.json").read_text())
    with (RUN / "predictions.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [int(row["row"]) for row in written] == list(rows.tested_rows())
    assert {customers["code"][int(row["row"])] == row["code"] for row in written} == {True}
    assert {customers["churned"][int(row["row"])] == row["label"] for row in written} == {True}

    assert shards.sample_details(3) == rows.sample_details(3)

    # Raw rows are encoded as the shards were.
    table = "--data TableDataModule --data.path customers.csv --data.target churned".split()
    assert kindling("test", "--ckpt_path", RUN, *table).code == 0
    assert json.loads((RUN / "test_metrics.json").read_text()) == pytest.approx(metrics, abs=1e-6)
    tested = customers.loc[rows.tested_rows()].drop(columns="churned")
    found = package.load(RUN).predict(tested)
    assert [f"{probability:.4f}" for probability in found.probabilities[:, 1]] == [
        f"{float(row['yes']):.4f}" for row in written
    ]
    tested.head(3).to_csv("new.csv", index=False)
    assert kindling("predict", "--ckpt_path", RUN, "--data.predict", "new.csv").code == 0
    assert kindling("export", "--ckpt_path", RUN).code == 0


def test_numbers_of_a_table_keep_their_units(folder: Path, kindling: Command) -> None:
    size = np.random.default_rng(0).uniform(40, 200, 200).round(1)
    frame = pd.DataFrame({"size": size, "price": [f"{3000 * value + 50_000:,.2f} EUR" for value in size]})
    frame.to_csv("houses.csv", index=False)
    assert kindling("prepare", "houses.csv", "--data.target", "price", *PREPARE[1:]).code == 0

    result = kindling(*FIT, "--model", "TabMClassifier", "--trainer.max_epochs", "40", "--model.optimizer.lr", "0.01")

    assert result.code == 0, result.err
    assert "TabMRegressor instead of TabMClassifier" in result.out
    card = package.load(RUN).card
    assert (card.target, card.unit) == ("price", "€")
    assert json.loads((RUN / "test_metrics.json").read_text())["test/r2"] > 0.9


def test_samples_of_any_data_module_are_streamed(shards: Path, kindling: Command) -> None:
    data, streamed = SyntheticDataModule(num_samples=300), StreamingDataModule(shards)
    for stage in ("fit", "test"):
        data.setup(stage)
        streamed.setup(stage)
    assert torch.equal(streamed.test.inputs[:], data.test.inputs)
    assert sorted(streamed.train.inputs[:].tolist()) == sorted(data.train.inputs.tolist())
    assert (streamed.mean, streamed.class_counts) == (data.mean, data.class_counts)
    assert streamed.class_names == data.class_names

    result = kindling(*FIT, *MLP, "--trainer.max_epochs", "15", "--model.optimizer.lr", "0.02")

    assert result.code == 0, result.err
    assert json.loads((RUN / "test_metrics.json").read_text())["test/accuracy"] > 0.6


def test_a_plain_lightning_data_module_with_datasets_is_streamed(folder: Path, kindling: Command) -> None:
    Path("plain.py").write_text(
        "import torch\n"
        "from lightning.pytorch import LightningDataModule\n"
        "from torch.utils.data import DataLoader, Dataset\n\n"
        "class Pairs(Dataset):\n"
        "    def __len__(self):\n        return 50\n"
        "    def __getitem__(self, index):\n"
        "        if index in (0, 7):\n            raise OSError('unreadable')\n"
        "        return {'a': torch.full((2,), float(index)), 'b': torch.rand(3)}, index % 2\n\n"
        "class PlainDataModule(LightningDataModule):\n"
        "    def train_dataloader(self):\n        return DataLoader(Pairs(), 5)\n"
        "    def val_dataloader(self):\n        return DataLoader(Pairs(), 5)\n"
    )

    result = kindling(*PREPARE, "--plugin", "plain.py", "--data", "PlainDataModule")

    assert result.code == 0, result.err
    assert "train sample 7: unreadable" in result.out
    shards = StreamingDataModule("shards", batch_size=4)
    shards.setup("fit")
    inputs, targets = next(iter(shards.train_dataloader()))
    assert {name: part.shape for name, part in inputs.items()} == {"a": (4, 2), "b": (4, 3)}
    assert torch.equal(targets, inputs["a"][:, 0].long() % 2)
    assert len(shards.train) == len(shards.val) == 48


def test_a_collate_of_ones_own_is_refused(folder: Path, kindling: Command) -> None:
    Path("own.py").write_text(
        "from torch.utils.data import TensorDataset\n"
        "from kindling import SyntheticDataModule\n\n"
        "class OwnDataModule(SyntheticDataModule):\n"
        "    def load(self, split):\n        return TensorDataset(*super().load(split))\n"
        "    @staticmethod\n    def collate(samples):\n        return samples\n"
    )
    result = kindling(*PREPARE, "--plugin", "own.py", "--data", "OwnDataModule")
    assert result.code == 1
    assert "OwnDataModule has its own `collate`, which shards don't keep" in result.err
    assert not Path("shards").exists()


def test_other_data_than_the_checkpoints_is_refused(shards: Path, kindling: Command) -> None:
    assert kindling(*PREPARE, *SYNTHETIC, "--data.num_samples", "310", "--out", "others").code == 0
    assert kindling(*FIT, *MLP, "--trainer.max_epochs", "1").code == 0
    shards.rename("moved")

    assert kindling("test", "--ckpt_path", RUN, "--data.path", "moved").code == 0
    result = kindling("test", "--ckpt_path", RUN, "--data.path", "others")
    assert (result.code, "training samples could be tested" in result.err) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["absent"], "absent not found: give a folder of images"),
        (["--data", "SyntheticDataModule", "--size", "8"], "--size resizes images of a folder"),
        (["--data", "SyntheticDataModule", "--workers", "-1"], "`workers` must be at least 0"),
        (["--data", "SyntheticDataModule", "--model", "MLP"], "prepare takes the options of the data only"),
        (["--data", "SyntheticDataModule", "--out", "full"], "full is not empty"),
    ],
)
def test_mistakes_end_in_one_line(folder: Path, kindling: Command, options: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("x")
    source, others = ([options[0]], options[1:]) if not options[0].startswith("-") else ([], options)
    result = kindling("prepare", *source, *PREPARE[1:], *others)
    assert result.code in (1, 2)
    (line,) = result.err.strip().splitlines()
    assert message in line
    assert not Path("shards").exists()


def test_the_working_directory_can_be_written(folder: Path, kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    monkeypatch.chdir("empty")
    options = "--out . --workers 0 --data SyntheticDataModule --data.num_samples 300".split()
    result = kindling("prepare", *options)
    assert result.code == 0, result.err
    assert Path("kindling.json").exists()


LAZY = (
    "from pathlib import Path\n"
    "import torch\n"
    "from lightning.pytorch import LightningDataModule\n"
    "from torch.utils.data import DataLoader, Dataset\n\n"
    "class Pairs(Dataset):\n"
    "    def __init__(self, noise):\n        self.noise = noise\n"
    "    def __len__(self):\n        return 50\n"
    "    def __getitem__(self, index):\n"
    "        return torch.full((2,), float(index) if index else self.noise), self.target(index)\n"
    "    def target(self, index):\n        return index % int(Path('classes').read_text())\n\n"
    "class LazyDataModule(LightningDataModule):\n"
    "    def __init__(self, noise: float = 0.0):\n        super().__init__()\n        self.noise = noise\n"
    "    def train_dataloader(self):\n        return DataLoader(Pairs(0.0), 5)\n"
    "    def val_dataloader(self):\n        return DataLoader(Pairs(0.0), 5)\n"
)


def test_a_finished_preparation_is_recognized_by_arguments_and_samples(folder: Path, kindling: Command) -> None:
    options = [*PREPARE, "--plugin", "lazy.py", "--data", "LazyDataModule"]
    Path("lazy.py").write_text(LAZY)
    Path("classes").write_text("2")
    assert kindling(*options).code == 0

    result = kindling(*options)
    assert result.code == 0, result.err
    assert "shards is already prepared: if samples have changed since, delete it or choose another --out" in result.out
    shard = next(Path("shards/train").glob("*.bin"))
    content = shard.read_bytes()
    for state, damage in (("damaged", lambda: shard.write_bytes(content[:-1] + b"x")), ("missing", shard.unlink)):
        damage()
        result = kindling(*options)
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert f"{shard} is {state}: delete shards and prepare it again" in result.err
    shard.write_bytes(content)
    assert "100 samples" not in result.out
    assert "shards holds other data" in kindling(*options, "--data.noise", "1").err
    Path("classes").write_text("3")
    assert "shards holds other data" in kindling(*options).err


PICKLED = (
    "from dataclasses import dataclass\n"
    "from torch.utils.data import Dataset\n"
    "from lightning.pytorch import LightningDataModule\n"
    "from torch.utils.data import DataLoader\n\n"
    "@dataclass\n"
    "class Sample:\n    number: int\n\n"
    "class Pairs(Dataset):\n"
    "    def __len__(self):\n        return 20\n"
    "    def __getitem__(self, index):\n        return {inputs}, index % 2\n\n"
    "class PickledDataModule(LightningDataModule):\n"
    "    def train_dataloader(self):\n        return DataLoader(Pairs(), 5)\n"
    "    def val_dataloader(self):\n        return DataLoader(Pairs(), 5)\n"
)


@pytest.mark.parametrize(
    ("inputs", "named"), [("Sample(index)", "pickle"), ("__import__('collections').OrderedDict(a=1)", "OrderedDict")]
)
def test_samples_that_need_pickle_are_refused(folder: Path, kindling: Command, inputs: str, named: str) -> None:
    Path("pickled.py").write_text(PICKLED.format(inputs=inputs))
    result = kindling(*PREPARE, "--plugin", "pickled.py", "--data", "PickledDataModule")
    assert result.code == 1
    (line,) = result.err.strip().splitlines()
    assert "samples of PickledDataModule contain" in line
    assert named in line
    assert not Path("shards").exists()


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("intruded", "w")


def write_pickled_shards(data_format: str, **spec: object) -> None:
    """Replace the parts of the first training shard by a pickle, with the right checksums."""
    path = Path("shards/kindling.json")
    found = json.loads(path.read_text())
    found["encoding"]["data_format"][0] = data_format
    protocol, nodes = json.loads(found["encoding"]["data_spec"])
    found["encoding"]["data_spec"] = json.dumps([protocol, nodes | spec])
    for stored in found["splits"]["train"]["shards"]:
        parts = [pickle.dumps(Intruder()), np.int64(0).tobytes()]
        sample = np.array([len(part) for part in parts], np.uint32).tobytes() + b"".join(parts)
        number = stored["samples"]
        offsets = 4 * (number + 2) + len(sample) * np.arange(number + 1)
        content = np.array([number, *offsets], np.uint32).tobytes() + number * sample
        Path("shards", stored["file"]).write_bytes(content)
        stored.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("data_format", "spec", "named"),
    [
        ("pickle", {}, "contain pickle"),
        ("bytes:pickle", {}, "contain bytes:pickle"),
        ("bytes", {"type": "collections.defaultdict"}, "contain collections.defaultdict"),
    ],
)
@pytest.mark.usefixtures("shards")
def test_shards_never_run_code(kindling: Command, data_format: str, spec: dict[str, str], named: str) -> None:
    write_pickled_shards(data_format, **spec)
    result = kindling(*FIT, *MLP)
    assert result.code == 1
    (line,) = result.err.strip().splitlines()
    assert f"shards/kindling.json describes samples that {named}, which could run code" in line
    assert not Path("intruded").exists()


NUMPY_SAMPLES = """
import numpy as np
from torch.utils.data import Dataset
from kindling import BaseDataModule

class Samples(Dataset):
    def __init__(self, text):
        self.text = text
    def __len__(self):
        return 20
    def __getitem__(self, index):
        numbers = [np.int64(index), np.float32(index / 3), np.bool_(index % 2), np.array(index, np.uint8)]
        arrays = [np.arange(3, dtype=">i4") + index, np.full((2, 2), index, np.float16)]
        text = np.array(["a", "b"]) if self.text else np.str_("a")
        return {"numbers": numbers, "arrays": arrays, "text": text}, index % 2

class NumPyDataModule(BaseDataModule):
    def __init__(self, text: bool = False) -> None:
        super().__init__()
        self.text = text
    def load(self, split):
        return Samples(self.text)
"""


def test_numpy_numbers_keep_their_type_and_arrays_of_text_are_refused(folder: Path, kindling: Command) -> None:
    Path("numpy_samples.py").write_text(NUMPY_SAMPLES)
    command = [*PREPARE, *"--plugin numpy_samples.py --data NumPyDataModule".split()]
    assert kindling(*command).code == 0
    shards = StreamingDataModule("shards")
    shards.setup("test")
    found = shards.test.inputs[:]
    index = torch.arange(20)
    expected = [index, (index.double() / 3).float(), index % 2 == 1, index.byte()]
    expected += [index.int()[:, None] + torch.arange(3).int(), index.half().expand(2, 2, 20).permute(2, 0, 1)]
    for mine, theirs in zip([*found["numbers"], *found["arrays"]], expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert found["text"] == ["a"] * 20

    result = kindling(*command, "--data.text", "true", "--out", "text")

    assert result.code == 1
    assert "no usable train samples: an array of str32 can't be stored: make it numbers" in result.err.splitlines()[-1]
    assert not Path("text").exists()
