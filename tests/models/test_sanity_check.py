"""What a network is asked before it is trained leaves no trace in it."""

import torch
from torch import nn

from kindling import MLPClassifier
from kindling.models.sanity_check import check_network


def test_a_network_that_is_checked_stays_as_it_is() -> None:
    model = MLPClassifier(num_classes=3, input_shape=(4,), batch_norm=True, dropout=0.5)
    frozen = next(module for module in model.modules() if isinstance(module, nn.Dropout)).eval()  # on purpose
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_network(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not frozen.training
