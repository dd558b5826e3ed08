"""The sanity check before training does not change a network."""

import torch
from torch import nn

from kindling import MLPClassifier
from kindling.models.sanity_check import check_network


def test_checking_a_network_does_not_change_it() -> None:
    model = MLPClassifier(num_classes=3, input_shape=(4,), batch_norm=True, dropout=0.5)
    frozen = next(module for module in model.modules() if isinstance(module, nn.Dropout)).eval()  # on purpose
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_network(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not frozen.training
