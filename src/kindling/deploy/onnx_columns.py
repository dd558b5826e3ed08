"""The encoding of columns of a table as ONNX operators."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kindling.data.tables.dates import read_days
from kindling.data.tables.number_parsing import MAX_NUMBER
from kindling.data.tables.rows import width
from kindling.data.tables.values import Column, as_name
from kindling.deploy.onnx_dates import add_days
from kindling.deploy.onnx_graph import OnnxGraph

INTEGERS = float(2**63 - 1024)  # the largest int64 that is a float64

Block = tuple[str, list[int]]  # features (N, k), and the position of each among all features


class Placed(NamedTuple):
    """A column in the graph."""

    column: Column
    name: str  # of its input
    start: int  # position of its first feature

    @property
    def end(self) -> int:
        """Position after its last feature."""
        return self.start + width(self.column)

    @property
    def targets(self) -> list[int]:
        """Positions of the features of its target encoding."""
        end = self.end - self.column["missing"]
        return [*range(end - len(self.column["classes"]), end)] if "encodings" in self.column else []


def add_numbers(graph: OnnxGraph, placed: Sequence[Placed]) -> list[Block]:
    """Encode the columns of numbers and dates, all at once: a table may have hundreds."""
    numbers, dates = ([each for each in placed if each.column["kind"] == kind] for kind in ("number", "date"))
    placed = [*numbers, *dates]
    parts = [graph.stack([each.name for each in numbers])] if numbers else []
    parts += [add_days(graph, graph.stack([each.name for each in dates]))] if dates else []
    if not parts:
        return []
    values = graph.add("Concat", *parts, axis=1)  # (N, columns)
    columns = [each.column for each in placed]
    absent = _add_absent(graph, values, columns)
    values = graph.add("Where", absent, np.array([column["median"] for column in columns]), values)
    scaled = graph.cast(_add_scale(graph, values, columns), "FLOAT")
    marked = [index for index, column in enumerate(columns) if column["missing"]]
    blocks: list[Block] = [(scaled, [each.start for each in placed])]
    if marked:
        indicators = graph.add("Gather", graph.cast(absent, "FLOAT"), np.array(marked), axis=1)
        blocks.append((indicators, [placed[index].end - 1 for index in marked]))
    for index, each in enumerate(placed):
        if each.targets:
            codes = _add_codes(graph, graph.pick(values, index), graph.pick(absent, index), each.column)
            blocks.append((_add_target(graph, codes, each.column), each.targets))
    return blocks


def _add_absent(graph: OnnxGraph, values: str, columns: Sequence[Column]) -> str:
    """Return which values (N, columns) are missing: NaN, infinite, or one of the numbers that mean missing."""
    present = graph.add("LessOrEqual", graph.add("Abs", values), np.finfo(np.float64).max)
    absent = graph.add("Not", present)
    markers = [_markers(column) for column in columns]
    for number in range(max(map(len, markers))):
        row = np.array([found[number] if number < len(found) else np.nan for found in markers])
        absent = graph.add("Or", absent, graph.add("Equal", values, row))
    return absent


def _markers(column: Column) -> list[float]:
    """Return the numbers, or days, that mean missing in a column, such as -999."""
    texts = column["missing_values"]
    if column["kind"] == "date":
        days: NDArray[np.float64] = read_days(texts, column["day_first"])
        return [*days[~np.isnan(days)].tolist()]
    numbers = []
    for text in texts:
        try:
            numbers.append(float(text))
        except ValueError:
            continue
    return [number for number in numbers if np.isfinite(number) and as_name(number) in texts]


def _add_scale(graph: OnnxGraph, values: str, columns: Sequence[Column]) -> str:
    """Scale values (N, columns), see `kindling.data.tables.scaling.scale`."""
    centers, scales, limits = (np.array([column[name] for column in columns]) for name in ("center", "scale", "limit"))
    values = graph.add("Clip", values, -MAX_NUMBER, MAX_NUMBER)
    ratios = graph.add("Div", graph.add("Sub", values, centers), scales)
    ratios = graph.add("Clip", ratios, -MAX_NUMBER, MAX_NUMBER)
    shares = graph.add("Div", ratios, limits)
    return graph.add("Div", ratios, graph.add("Sqrt", graph.add("Add", graph.add("Mul", shares, shares), 1.0)))


def _add_codes(graph: OnnxGraph, numbers: str, absent: str, column: Column) -> str:
    """Return the index of numbers (N,) among the known ones; their number if they are unknown or missing."""
    known = [int(name) for name in column["known"]]
    integers = graph.cast(graph.add("Clip", numbers, -INTEGERS, INTEGERS), "INT64")
    keys = {key: index for index, key in enumerate(known) if abs(key) < INTEGERS}
    codes = graph.add(
        "LabelEncoder",
        integers,
        domain="ai.onnx.ml",
        keys_int64s=[*keys],
        values_int64s=[*keys.values()],
        default_int64=len(known),
    )
    return graph.add("Where", absent, len(known), codes)


def add_category(graph: OnnxGraph, placed: Placed) -> list[Block]:
    """Encode a column of categories."""
    column, names = placed.column, placed.column["values"]
    features = np.zeros((len(names) + 2, width(column) - len(placed.targets)), dtype=np.float32)
    if len(names) == 2:
        features[:2, 0] = -1, 1
    else:
        features[: len(names), : len(names)] = np.eye(len(names))
    if column["missing"]:
        features[-1, -1] = 1
    keys = {name: len(names) + 1 for name in ("", *column["missing_values"])}
    codes = _add_names(graph, placed.name, names, len(names), keys)
    positions = [position for position in range(placed.start, placed.end) if position not in placed.targets]
    blocks: list[Block] = [(graph.add("Gather", features, codes), positions)] if positions else []
    if placed.targets:
        codes = _add_names(graph, placed.name, column["known"], len(column["known"]), {})
        blocks.append((_add_target(graph, codes, column), placed.targets))
    return blocks


def _add_names(graph: OnnxGraph, texts: str, names: Sequence[str], unseen: int, others: dict[str, int]) -> str:
    """Return the index of each text (N,) among names, or its code in `others`, or `unseen`."""
    keys = {spelling: index for index, name in enumerate(names) for spelling in _spellings(name)} | others
    return graph.add(
        "LabelEncoder",
        texts,
        domain="ai.onnx.ml",
        keys_strings=[*keys],
        values_int64s=[*keys.values()],
        default_int64=unseen,
    )


def _spellings(name: str) -> list[str]:
    """Return the texts that `as_name` reads as a name, such as those of 3.0 and True in Python."""
    return [text for text in (name, f"{name}.0", name.capitalize(), name.upper()) if as_name(text) == name]


def _add_target(graph: OnnxGraph, codes: str, column: Column) -> str:
    """Return the target encoding of known categories (N,); that of all rows for others."""
    return graph.add("Gather", np.array([*column["encodings"], column["prior"]], dtype=np.float32), codes)
