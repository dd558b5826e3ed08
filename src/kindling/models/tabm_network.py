"""TabM: a parameter-efficient ensemble of multilayer perceptrons for tables, with embeddings of numbers.

Yury Gorishniy et al., "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling" (ICLR 2025) and "On
Embeddings for Numerical Features in Tabular Deep Learning" (NeurIPS 2022).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class NumberEmbedding(nn.Module):
    """Embeds each number with a piecewise linear function, as a multilayer perceptron learns sharp changes slowly.

    Args:
        numbers: Number of features, F.
        bins: Pieces of each function. `learn_bins` learns their edges.
        width: Values that a number becomes.
    """

    edges: Tensor

    def __init__(self, numbers: int, bins: int, width: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-2, 2, bins + 1).repeat(numbers, 1))  # (F, bins + 1)
        self.pieces = nn.Parameter(torch.empty(numbers, bins, width).uniform_(-1, 1) / math.sqrt(bins))
        self.slope = nn.Parameter(torch.empty(numbers, width).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(numbers, width).uniform_(-1, 1))

    def learn_bins(self, numbers: Tensor) -> None:
        """Set the edges to quantiles of training numbers (N, F), or to the distinct numbers if they are few."""
        for edges, column in zip(self.edges, numbers.T, strict=True):
            found = column.unique()
            if len(found) > len(edges):
                found = column.quantile(torch.linspace(0, 1, len(edges))).unique()
            edges[: len(found)], edges[len(found) :] = found, found[-1]  # the remaining bins have no width

    @override
    def forward(self, numbers: Tensor) -> Tensor:
        start, widths = self.edges[:, :-1], self.edges.diff(dim=1)
        scale = torch.where(widths > 0, 1 / widths.clamp(min=1e-9), 0.0)  # (F, bins)
        columns = numbers.T.unsqueeze(2)  # (F, N, 1)
        # (F, N, bins): part of a bin below the number
        passed = (columns - start.unsqueeze(1)).mul_(scale.unsqueeze(1)).clamp_(0, 1)
        line = columns * self.slope.unsqueeze(1) + self.bias.unsqueeze(1)
        return torch.baddbmm(line, passed, self.pieces).transpose(0, 1).flatten(1)  # (N, F * width)


def drop(values: Tensor, probability: float) -> Tensor:
    """Return dropout of values, in half the time of `nn.Dropout` on a CPU."""
    return values * torch.rand_like(values).ge_(probability).div_(1 - probability)


class MemberLinear(nn.Module):
    """Linear layer whose weights all members of an ensemble share, except for scales of its inputs and outputs.

    In the first layer, random signs of the inputs make the members differ.
    """

    def __init__(self, in_features: int, out_features: int, members: int, is_first: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        signs = torch.randint(2, (members, 1, in_features)) * 2.0 - 1
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features).uniform_(-bound, bound))
        self.in_scale = nn.Parameter(signs if is_first else torch.ones_like(signs))
        self.out_scale = nn.Parameter(torch.ones(members, 1, out_features))

    @override
    def forward(self, inputs: Tensor) -> Tensor:  # (members, N, in_features), or (N, in_features) for all
        return F.linear(inputs * self.in_scale, self.weight) * self.out_scale + self.bias


class TabM(nn.Module):
    """Ensemble of multilayer perceptrons that share most of their weights.

    Takes features (N, ...). In training, returns the outputs of all members, stacked to (members * N, out_features);
    otherwise their average (N, out_features).

    Args:
        in_features: Number of features of a row.
        out_features: Number of outputs.
        numbers: Indices of the features that are numbers, which are embedded.
        hidden: Width of each hidden layer.
        dropout: Probability of zeroing an activation, for each hidden layer.
        members: Number of members.
        bins: Pieces of the embedding of a number.
        width: Values that a number becomes.
        average: Averages the outputs of the members (members, N, out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        numbers: Sequence[int],
        hidden: Sequence[int],
        dropout: Sequence[float],
        members: int,
        bins: int,
        width: int,
        average: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.numbers = list(numbers)
        self.others = sorted({*range(in_features)}.difference(numbers))
        self.average = average
        self.embedding = NumberEmbedding(len(self.numbers), bins, width) if self.numbers else None
        widths = [len(self.others) + len(self.numbers) * width, *hidden]
        self.layers = nn.ModuleList(
            MemberLinear(before, after, members, number == 0)
            for number, (before, after) in enumerate(zip(widths, hidden, strict=False))
        )
        self.dropout = list(dropout)
        bound = 1 / math.sqrt(widths[-1])
        self.head = nn.Parameter(torch.empty(members, widths[-1], out_features).uniform_(-bound, bound))
        self.head_bias = nn.Parameter(torch.empty(members, 1, out_features).uniform_(-bound, bound))

    def learn_bins(self, inputs: Tensor) -> None:
        """Learn the bins of the numbers from training features (N, ...)."""
        if self.embedding is not None:
            self.embedding.learn_bins(inputs.flatten(1)[:, self.numbers])

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.flatten(1)
        values = inputs[:, self.others]
        if self.embedding is not None:
            values = torch.cat([values, self.embedding(inputs[:, self.numbers])], dim=1)
        for layer, probability in zip(self.layers, self.dropout, strict=True):
            values = layer(values).relu_()  # (members, N, width)
            if self.training and probability:
                values = drop(values, probability)
        outputs = torch.baddbmm(self.head_bias, values, self.head)  # (members, N, out_features)
        return outputs.flatten(0, 1) if self.training else self.average(outputs)
