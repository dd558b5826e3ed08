"""Data that is read before a training, in several processes."""

import threading
from pathlib import Path

import pytest
from lightning.pytorch import LightningDataModule

from kindling.models.infer import prepare


class Counted(LightningDataModule):
    """Counts the calls of `prepare_data`."""

    calls = 0

    def prepare_data(self) -> None:
        self.calls += 1


@pytest.mark.parametrize(
    ("variables", "per_node", "calls"),
    [
        ({}, True, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, True, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False, 0),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, True, 0),  # started by the first, which has prepared the data
    ],
)
def test_data_is_prepared_where_lightning_prepares_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], per_node: bool, calls: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    data = Counted()
    data.prepare_data_per_node = per_node
    prepare(data)
    assert data.calls == calls


def test_processes_of_a_cluster_wait_until_the_first_has_prepared_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = Counted()
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    other = threading.Thread(target=prepare, args=[data], daemon=True)
    other.start()
    other.join(0.5)
    assert (other.is_alive(), data.calls) == (True, 0)
    monkeypatch.setenv("LOCAL_RANK", "0")
    prepare(data)
    other.join(10)
    assert (other.is_alive(), data.calls) == (False, 1)
