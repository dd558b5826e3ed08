"""Mutation testing: changes a file of `src/` in one place at a time and runs its tests, of which one should fail.

    pip install mutmut
    python scripts/mutants.py src/kindling/runs/metrics_csv.py
    python scripts/mutants.py src/kindling/runs/metrics_csv.py --only 12 40 --tests tests/cli/test_runs.py

The mutations are those of mutmut. mutmut itself is not used to run them because it wraps functions, which hides their
signatures from the command line.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import libcst as cst
import pytest
from libcst import matchers as m
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parents[1]
# Libraries are imported only once: each mutant runs in a fork of this process.
IMPORTS = "jsonargparse lightning.pytorch.cli matplotlib.pyplot pandas sklearn.metrics torchmetrics torchvision"
# Tests of whole commands, which run after the file's own tests; quick ones first.
COMMAND_TESTS = [
    f"tests/{name}.py"
    for name in ("deploy/test_predictor", "training/test_resume", "cli/test_lightning_cli", "cli/test_entry_point")
]
# Not mutated, because ruff and mypy check it: annotations, type aliases, decorators and `__all__`.
NAMES = m.Assign(value=m.Subscript(m.Name("Literal") | m.Name("tuple"))), m.Assign([m.AssignTarget(m.Name("__all__"))])
LEFT_OUT = (m.Annotation(), m.Decorator(), *NAMES)


def changes(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """Yield the nodes of a program, each with a mutation of it."""
    if any(m.matches(node, left_out) for left_out in LEFT_OUT):
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from ((node, changed) for changed in operator(node))
    for child in node.children:
        yield from changes(child)


def mutants(source: str) -> list[str]:
    """Return the source with each of the mutations."""
    module = cst.parse_module(source)
    texts = (cst.ensure_type(module.deep_replace(*change), cst.Module).code for change in changes(module))
    return list(dict.fromkeys(texts))


def where(source: str, mutant: str) -> str:
    """Return the first line that differs: its number, the original and the mutation."""
    pairs = enumerate(zip(source.splitlines(), mutant.splitlines(), strict=False), 1)
    return next(f"{number}: {old.strip()}  ->  {new.strip()}" for number, (old, new) in pairs if old != new)


def run_tests(tests: list[str], folder: Path) -> None:
    """Run tests until one fails, and exit with pytest's code."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}", *tests]))


def passes(tests: list[str], folder: Path, seconds: float | None = None) -> bool:
    """Return whether tests pass in a fork of this process within a time limit: a mutant may loop forever."""
    child = multiprocessing.get_context("fork").Process(target=run_tests, args=(tests, folder))
    child.start()
    child.join(seconds)
    if child.is_alive() and child.pid:
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
    return child.exitcode == 0


def main() -> None:
    """Print a line for each mutant, and how many were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tests", nargs="+", help="by default those of the file, then those of the whole")
    parser.add_argument("--only", nargs="+", type=int, help="numbers of mutants")
    options = parser.parse_args()
    file = options.file.resolve().relative_to(ROOT)
    own = Path("tests", *file.parts[2:]).with_name(f"test_{file.name}")
    tests = options.tests or [str(own), *COMMAND_TESTS]
    for name in IMPORTS.split():
        import_module(name)

    os.chdir(ROOT)
    source, survivors = file.read_text(encoding="utf-8"), 0
    found = {number: text for number, text in enumerate(mutants(source)) if number in (options.only or [number])}
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder, file)
        shutil.copytree("src", f"{folder}/src", ignore=shutil.ignore_patterns("__pycache__"))
        sys.path.insert(0, f"{folder}/src")
        os.environ["PYTHONPATH"] = f"{folder}/src"  # for the programs that tests start
        start = time.perf_counter()
        if not passes(tests, Path(folder, "tests")):
            raise SystemExit(f"without a mutant, {' '.join(tests)} fails already")
        usual = time.perf_counter() - start
        print(f"{len(found)} mutants, {usual:.0f} s without one", flush=True)
        for number, text in found.items():
            changed.write_text(text, encoding="utf-8")
            # Python reuses bytecode if the file has the same size and was modified in the same second.
            shutil.rmtree(changed.with_name("__pycache__"), ignore_errors=True)
            survived = passes(tests, Path(folder, "tests"), 10 * usual)
            survivors += survived
            print(f"{number} {'SURVIVED' if survived else 'killed'} {file}:{where(source, text)}", flush=True)
    print(f"{file}: {len(found) - survivors} of {len(found)} killed, {1 - survivors / len(found):.1%}")


if __name__ == "__main__":
    main()
