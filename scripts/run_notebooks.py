"""Runs notebooks from top to bottom and saves them in place with what they print and draw.

    python scripts/run_notebooks.py                         # all of them
    python scripts/run_notebooks.py notebooks/03*.ipynb

Each runs in a temporary folder, so nothing that it writes stays behind.
"""

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def find_notebooks(root: Path = NOTEBOOKS) -> list[Path]:
    """All notebooks under a folder, but for the copies that Jupyter keeps."""
    return sorted(path for path in root.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def execute(path: Path, folder: Path, timeout: float = 600) -> nbformat.NotebookNode:
    """Runs a notebook in a new kernel, with `folder` as its working folder.

    Args:
        path: The notebook; it is read only.
        folder: Where it works.
        timeout: Seconds that a cell may take.

    Returns:
        The notebook with its outputs, and without what differs from machine to machine.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    # `!kindling` is the one of this Python, whether its environment is active or not.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # the kernel warns of its local connection
    )
    client.execute(env=os.environ | {"PATH": here})
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
    }
    return notebook


def shrink_pictures(notebook: nbformat.NotebookNode) -> None:
    """Reduces each picture of a notebook to 256 colours: a third of the size, and the eye hardly sees it."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if encoded := output.get("data", {}).get("image/png"):
            picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
            page = Image.new("RGB", picture.size, "white")
            page.paste(picture, mask=picture)
            smaller = io.BytesIO()
            # The usual method would take the colour out of a few words on a picture of many colours.
            page.quantize(256, Image.Quantize.MAXCOVERAGE).save(smaller, "PNG", optimize=True)
            output["data"]["image/png"] = base64.b64encode(smaller.getvalue()).decode()


def main() -> None:
    """Runs the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to run; all by default")
    for path in parser.parse_args().notebooks or find_notebooks():
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        shrink_pictures(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
