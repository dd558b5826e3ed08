"""The map of topics in docs/tutorials.md names headings and files that exist."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def headings(number: str) -> list[str]:
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").splitlines()
    return [line.lstrip("# ") for line in lines if line.startswith("#")]


def test_there_are_seven_notebooks() -> None:
    found = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert found == [f"{number:02}" for number in range(1, 8)]


def test_every_entry_exists() -> None:
    """`04: The digits; The network; configs/mnist_cnn.yaml`, for example, names two headings and a file."""
    tables = (ROOT / "docs/tutorials.md").read_text(encoding="utf-8").split("| first tutorial")[1]
    rows = [row.split("|")[2] for row in tables.splitlines() if row.count("|") == 3]
    found, number = 0, ""
    for entry in "; ".join(rows).split(";"):
        if numbered := re.match(r"\s*(0\d): ", entry):
            number = numbered[1]
        place = entry.strip().removeprefix(f"{number}: ")
        if re.fullmatch(r"`[\w/]+\.(yaml|py)`", place):
            assert (ROOT / place.strip("`")).exists(), place
        elif not re.match(r"`|the benchmarks|-*$|where$|training", place):
            assert place in headings(number), f"{number}: {place}"
            found += 1
    assert found > 40
