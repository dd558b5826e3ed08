"""Makes one small mistake at a time in a file of `src/` and runs the tests of it: one of them ought to fail.

    pip install mutmut
    python scripts/mutants.py src/kindling/runs.py
    python scripts/mutants.py src/kindling/runs.py --only 12 40 --tests tests/test_cli.py

mutmut says which mistakes; it would make them in wrapped functions, whose signatures the command line could not read.
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
# What the tests use and nobody changes is imported once: each mutant runs in a fork of this process.
IMPORTS = "jsonargparse lightning.pytorch.cli matplotlib.pyplot pandas sklearn.metrics torchmetrics torchvision"
# After a file's own tests, those of the whole, the quick ones first.
WHOLE = [
    f"tests/{name}.py"
    for name in ("deploy/test_predictor", "training/test_resume", "cli/test_lightning_cli", "cli/test_entry_point")
]
# What ruff and mypy look after: types, also those with a name of their own, decorators, and `__all__`.
NAMES = m.Assign(value=m.Subscript(m.Name("Literal") | m.Name("tuple"))), m.Assign([m.AssignTarget(m.Name("__all__"))])
LEFT_OUT = (m.Annotation(), m.Decorator(), *NAMES)


def changes(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """Parts of a program, and what each might be by mistake."""
    if any(m.matches(node, left_out) for left_out in LEFT_OUT):
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from ((node, changed) for changed in operator(node))
    for child in node.children:
        yield from changes(child)


def mutants(source: str) -> list[str]:
    """The source with each of the mistakes."""
    module = cst.parse_module(source)
    texts = (cst.ensure_type(module.deep_replace(*change), cst.Module).code for change in changes(module))
    return list(dict.fromkeys(texts))


def where(source: str, mutant: str) -> str:
    """The line that differs: its number, as it was and as it is."""
    pairs = enumerate(zip(source.splitlines(), mutant.splitlines(), strict=False), 1)
    return next(f"{number}: {old.strip()}  ->  {new.strip()}" for number, (old, new) in pairs if old != new)


def run_tests(tests: list[str], folder: Path) -> None:
    """Runs tests until one fails, and ends this process with pytest's code."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}", *tests]))


def passes(tests: list[str], folder: Path, seconds: float | None = None) -> bool:
    """Whether tests pass in a fork of this process, in time: a mutant may make a loop endless."""
    child = multiprocessing.get_context("fork").Process(target=run_tests, args=(tests, folder))
    child.start()
    child.join(seconds)
    if child.is_alive() and child.pid:
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
    return child.exitcode == 0


def main() -> None:
    """Prints a line for each mutant, and how many the tests noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tests", nargs="+", help="by default those of the file, then those of the whole")
    parser.add_argument("--only", nargs="+", type=int, help="numbers of mutants")
    options = parser.parse_args()
    file = options.file.resolve().relative_to(ROOT)
    own = Path("tests", *file.parts[2:]).with_name(f"test_{file.name}")
    tests = options.tests or [str(own), *WHOLE]
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
            # Python takes what it has compiled for current where size and second are the same.
            shutil.rmtree(changed.with_name("__pycache__"), ignore_errors=True)
            survived = passes(tests, Path(folder, "tests"), 10 * usual)
            survivors += survived
            print(f"{number} {'SURVIVED' if survived else 'killed'} {file}:{where(source, text)}", flush=True)
    print(f"{file}: {len(found) - survivors} of {len(found)} killed, {1 - survivors / len(found):.1%}")


if __name__ == "__main__":
    main()
