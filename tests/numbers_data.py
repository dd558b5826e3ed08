"""Data modules whose targets are numbers: rows of a table, feature vectors and images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kindling import BaseDataModule
from kindling.data.tables.rows import encode_rows

PLANS = ("basic", "gold", "team")
COLUMNS = [
    {
        **{"name": "size", "kind": "number", "decimal": ".", "units": [], "missing_values": [], "range": [20.0, 180.0]},
        **{"median": 100.0, "center": 100.0, "scale": 70.0, "limit": 5.0, "missing": False},
    },
    {
        **{"name": "age", "kind": "number", "decimal": ".", "units": [], "missing_values": [], "range": [0.0, 60.0]},
        **{"median": 30.0, "center": 30.0, "scale": 27.0, "limit": 5.0, "missing": False},
    },
    {"name": "plan", "kind": "category", "values": list(PLANS), "missing": False, "missing_values": []},
]
PRICE = COLUMNS[0] | {"name": "price", "units": ["€"], "range": [50.0, 650.0], "median": 330.0, "center": 330.0}


class HousesDataModule(BaseDataModule):
    """Prices in thousands, as in a table; those of the plan `team` are noisier."""

    input_shape = (5,)

    def __init__(self, num_samples: int = 1000, **loading: Any) -> None:
        super().__init__(**loading)
        self.num_samples = num_samples
        self.fitted = {"columns": COLUMNS, "left_out": {}, "target": PRICE}

    def rows(self, split: str) -> list[dict[str, Any]]:
        random = np.random.default_rng(len(split))
        number = self.num_samples if split == "train" else self.num_samples // 2
        sizes, ages = random.uniform(20, 180, number), random.uniform(0, 60, number)
        plans, noise = random.integers(3, size=number), random.normal(size=number)
        prices = 50 + 3 * sizes - 2 * ages + 40 * plans + noise * np.where(plans == 2, 40, 8)
        values = zip(sizes.round(1), ages.round(), plans, prices, strict=True)
        return [
            {"size": float(size), "age": float(age), "plan": PLANS[plan], "price": round(float(price), 2)}
            for size, age, plan, price in values
        ]

    def load(self, split: str) -> tuple[Tensor, Tensor]:
        rows = self.rows(split)
        return torch.from_numpy(encode_rows(rows, COLUMNS, "houses")), torch.tensor([row["price"] for row in rows])

    def describe(self, row: int) -> dict[str, object]:
        return {**self.rows("test")[row]}


class WavesDataModule(BaseDataModule):
    """A target that depends on three of six features without names."""

    input_shape = (6,)

    def load(self, split: str) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(len(split))
        inputs = torch.randn(400, 6, generator=random)
        return inputs, 1000 + 50 * inputs[:, 0] - 20 * inputs[:, 1] + 30 * inputs[:, 2].sin()


class BrightnessDataModule(BaseDataModule):
    """Images (N, 1, 8, 8) and their mean brightness in percent."""

    input_shape = (1, 8, 8)

    def load(self, split: str) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(len(split))
        light = torch.rand(300, 1, 1, 1, generator=random)
        images = (255 * light * torch.rand(300, 1, 8, 8, generator=random)).to(torch.uint8)
        return images, images.float().mean(dim=(1, 2, 3)) / 2.55


class OneTargetDataModule(WavesDataModule):
    """Constant targets."""

    def load(self, split: str) -> tuple[Tensor, Tensor]:
        inputs, targets = super().load(split)
        return inputs, torch.full_like(targets, 7.0)


class BrokenWavesDataModule(WavesDataModule):
    """Every third test sample is NaN, and so is its prediction."""

    def load(self, split: str) -> tuple[Tensor, Tensor]:
        inputs, targets = super().load(split)
        if split == "test":
            inputs[::3] = torch.nan
        return inputs, targets
