"""Layers that several networks share."""

from collections.abc import Sequence

from torch import nn


def mlp(
    in_features: int, hidden: tuple[int, ...], out_features: int, dropout: Sequence[float], batch_norm: bool
) -> nn.Sequential:
    """Return hidden layers of linear, batch norm, ReLU and dropout, followed by a linear layer.

    Maps inputs (N, ...) with `in_features` values per sample to outputs (N, out_features). `dropout` has a probability
    for each hidden layer.
    """
    if min(hidden, default=1) < 1:
        raise ValueError(f"hidden layers need a width of at least 1, got {hidden}")
    layers: list[nn.Module] = [nn.Flatten()]
    for width, probability in zip(hidden, dropout, strict=True):
        layers.append(nn.Linear(in_features, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if any(dropout):  # also where it is 0, so that the weights have the same names in each model and version
            layers.append(nn.Dropout(probability))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))
