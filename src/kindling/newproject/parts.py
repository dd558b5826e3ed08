"""The parts that a new project may do without, and what goes with each."""

from collections.abc import Collection
from fnmatch import fnmatch
from typing import NamedTuple

from kindling.wording import did_you_mean


class Part(NamedTuple):
    """A part of the project.

    Attributes:
        files: Patterns of the files that nothing needs without it; those of two parts go with either.
        extras: What it can be installed with, in pyproject.toml.
        packages: What it alone imports, in pyproject.toml.
    """

    files: tuple[str, ...]
    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


PARTS = {
    "dashboard": Part(("src/kindling/dashboard/*", "tests/dashboard/*", "notebooks/06_*")),
    "deploy": Part(
        (
            *("src/kindling/deploy/*", "src/kindling/commands.py", "tests/deploy/*", "notebooks/07_*"),
            *("Dockerfile", ".dockerignore"),
        ),
        ("export", "serve", "torchserve"),
        ("model_archiver", "onnxruntime"),
    ),
    "ensemble": Part(
        (
            *("src/kindling/models/ensemble.py", "tests/models/test_ensemble.py", "configs/mnist_ensemble.yaml"),
            "notebooks/07_*",
        )
    ),
    "images": Part(
        (
            *(f"src/kindling/data/{name}.py" for name in ("checks", "folder", "images")),
            *("tests/data/test_images.py", "tests/test_python.py", "configs/images_transfer.yaml", "notebooks/05_*"),
        )
    ),
    "notebooks": Part(("notebooks/*", "scripts/run_notebooks.py", "tests/test_notebooks.py"), ("notebooks",)),
    "report": Part(("src/kindling/report/*", "tests/report/*", "notebooks/04_*")),
    "runlist": Part(("src/kindling/runlist/*", "tests/runlist/*")),
    "tables": Part(
        (
            *(f"src/kindling/data/{name}.py" for name in ("columns", "rows", "splits", "tables", "target")),
            *(f"src/kindling/data/{name}.py" for name in ("tablefiles", "values", "quantities", "dates", "units")),
            *(f"src/kindling/data/{name}.py" for name in ("categories", "filestyle", "leaks", "ranges")),
            *(f"src/kindling/data/{name}.py" for name in ("reading", "scaling")),
            *(f"tests/data/test_{name}.py" for name in ("columns", "rows", "tablefiles", "tables", "dates")),
            *(f"tests/data/test_{name}.py" for name in ("categories", "quantities", "reading", "scaling")),
            *("tests/rows.py", "configs/table_mlp.yaml", "notebooks/05_*"),
        ),
        ("parquet",),
        ("pandas", "pyarrow"),
    ),
    "transfer": Part(
        (
            *(f"src/kindling/models/{name}.py" for name in ("adapt", "backbones", "features", "transfer", "weights")),
            *(f"tests/models/test_{name}.py" for name in ("phases", "transfer", "unfreeze")),
            *("tests/trials/test_frozen.py", "tests/test_python.py", "configs/*_transfer.yaml", "notebooks/05_*"),
        )
    ),
    "trials": Part(("src/kindling/trials/*", "tests/trials/*", "notebooks/06_*")),
}

# What several parts use goes with the last of them.
SHARED = {
    ("dashboard", "deploy"): Part(("scripts/browser.py",), packages=("selenium",)),
    ("dashboard", "report"): Part(("src/kindling/answers.py", "src/kindling/pictures.py")),
}

# What is about the template itself.
TEMPLATE = (
    *("src/kindling/newproject/*", "tests/newproject/*", "tests/test_speed.py"),
    *("docs/benchmark/*", "docs/*.png", "README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("tests/test_guides.py", "tests/test_project.py", "tests/test_translation.py"),
    *("tests/test_tutorials.py", ".github/ISSUE_TEMPLATE/*"),
    *("scripts/benchmark*.py", "scripts/*_loop.py", "scripts/screenshots.py", "scripts/mutants.py"),
    *("scripts/soak*.py", "tests/test_soak.py", "tests/test_promises.py", "docs/resume.md"),
)


def check_parts(names: Collection[str]) -> None:
    """Raises ValueError where a name is that of no part."""
    for name in names:
        if name not in PARTS:
            raise ValueError(f"--without {name}: there is no such part{did_you_mean(name, PARTS) or others()}")


def others() -> str:
    """The names of all parts, for a message."""
    return f": there are {', '.join(PARTS)}"


def goes(file: str, without: Collection[str]) -> bool:
    """Whether a new project does without a file.

    Args:
        file: Its path in the repository, with slashes.
        without: The parts that are left out.
    """
    patterns = [*TEMPLATE, *(pattern for part in _gone(without) for pattern in part.files)]
    return any(fnmatch(file, pattern) for pattern in patterns)


def packages(without: Collection[str]) -> list[str]:
    """What nothing imports any more, as pyproject.toml and mypy name it."""
    ours = ["markdown-it-py", "libcst", "mutmut"]  # what reads the template's own README, and makes mutants
    return [*ours, *(package for part in _gone(without) for package in part.packages)]


def extras(without: Collection[str]) -> list[str]:
    """What there is no more to be installed with."""
    return [extra for part in _gone(without) for extra in part.extras]


def _gone(without: Collection[str]) -> list[Part]:
    shared = [part for parts, part in SHARED.items() if {*parts} <= {*without}]
    return [*(PARTS[name] for name in without), *shared]
