"""The notebooks run from top to bottom, and their saved outputs are complete and portable."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from run_notebooks import execute, find_notebooks

NOTEBOOKS = find_notebooks()
PARAMETERS = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# Absolute paths and memory addresses, which differ between machines.
MACHINE_SPECIFIC = re.compile(r"(?<![\w:/.<])/[a-z]\w*/\w|\b[A-Z]:\\|0x[0-9a-f]{6,}", re.IGNORECASE)


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def texts(output: NotebookNode) -> Iterator[str]:
    yield output.get("text", "")
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield content


def test_the_notebooks_are_numbered() -> None:
    assert NOTEBOOKS
    assert all(path.name[:2].isdecimal() for path in NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    # The second notebook compares times.
    [pytest.param(path, marks=[pytest.mark.alone] * path.name.startswith("02")) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_from_top_to_bottom(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = os.times()
    execute(path, folder)  # raises if a cell fails, for example at one of its assertions
    # CPU time of the kernel, which other programs hardly affect.
    assert sum(os.times()[2:4]) - sum(before[2:4]) < 120


@PARAMETERS
def test_saved_outputs_are_complete(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook)), "no plot in the saved outputs"
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    printed = "\n".join(text for output in outputs(notebook) for text in texts(output))
    assert not MACHINE_SPECIFIC.findall(printed)
    assert path.stat().st_size < 500_000  # the limit of the pre-commit hook for large files


@pytest.mark.slow
def test_a_failing_cell_raises_an_error(folder: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 + 1 == 3")])
    nbformat.write(notebook, folder / "wrong.ipynb")
    with pytest.raises(CellExecutionError, match="1 \\+ 1 == 3"):
        execute(folder / "wrong.ipynb", folder)
