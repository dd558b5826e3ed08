from pathlib import Path

import pytest

from conftest import SHUFFLENET, TRANSFER, Command
from kindling import DigitsDataModule, TransferClassifier, overfit_batch


@pytest.mark.slow
def test_only_the_copy_of_a_frozen_backbone_is_trained(kindling: Command, cached: Path) -> None:
    assert "the network can overfit" in kindling(*TRANSFER, "--overfit").out
    data = DigitsDataModule(shots=10)
    model = TransferClassifier.for_data(data, backbone=SHUFFLENET)
    assert overfit_batch(model, data, accelerator="cpu").succeeded
    assert model.will_unfreeze
