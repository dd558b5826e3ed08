"""MkDocs hook: generate the pages of the site that come from the code, the notebooks and the changelog.

MkDocs calls `on_files`; `generate_pages` returns the same pages for the tests.
"""

import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import kindling.estimators
from kindling.cli import main
from kindling.cli.commands import COMMANDS
from kindling.cli.schema import recipe_schema
from kindling.models.data_arguments import DATA_ARGUMENTS

ROOT = Path(__file__).parents[1]
TYPES = {
    "string": "text",
    "integer": "int",
    "number": "float",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
    "null": "null",
}
Schema = Mapping[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those in `docs/`."""
    for path, content in generate_pages():
        files.append(File.generated(config, path, content=content))
    return files


def generate_pages() -> Iterator[tuple[str, str | bytes]]:
    """Yield the path and content of each generated page, and of the pictures in it."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield from notebook_page(notebook)
    schema = recipe_schema()
    yield "reference/commands.md", commands_page()
    yield "reference/options.md", options_page(schema)
    yield "reference/models.md", classes_page(schema, "Model options", "model", "Classifier", "Regressor")
    yield "reference/data.md", classes_page(schema, "Data options", "data", "DataModule")
    yield "reference/api.md", api_page()
    yield "changelog.md", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def notebook_page(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """Yield a notebook as Markdown, with the outputs that are saved in it, and its pictures."""
    parts: list[str] = []
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        parts.append(cell.source if cell.cell_type == "markdown" else fence("python", cell.source))
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                picture = f"{path.stem}/{number}.png"
                yield f"tutorials/{picture}", base64.b64decode(data["image/png"])
                parts.append(f"![Output of the code above]({picture})")
            else:
                parts.append(data.get("text/html") or fence("text", data["text/plain"]))
    yield f"tutorials/{path.stem}.md", "\n\n".join(parts) + "\n"


def fence(language: str, text: str) -> str:
    """Return a fenced block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def help_page(command: str) -> str:
    """Return the output of a command with `--help`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return "".join(sign for sign in printed.getvalue() if sign.isprintable() or sign == "\n").strip()


def commands_page() -> str:
    """Return the help pages of all commands."""
    os.environ["COLUMNS"], os.environ["NO_COLOR"] = "84", "1"  # the same on every terminal
    names = [command for name in COMMANDS for command in (name, *(["runs show", "runs compare"] * (name == "runs")))]
    pages = [f"## kindling {name}\n\n{fence('text', help_page(name))}\n" for name in names]
    return "# Commands\n\nThe help page of each command, as `kindling COMMAND --help` prints it.\n\n" + "\n".join(pages)


def type_text(schema: Schema) -> str:
    """Return the values that an option takes, in words."""
    if "enum" in schema:
        return ", ".join(f"`{'null' if value is None else value}`" for value in schema["enum"])
    if "$ref" in schema:
        bases = str(schema["$ref"]).partition(":")[2].split(":")  # any:torch.optim.optimizer.Optimizer:factory
        return " or ".join(base.rpartition(".")[2] for base in bases if base != "factory")
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        return " or ".join(dict.fromkeys(type_text(kind) for kind in kinds))
    kind = schema.get("type", "any")
    return " or ".join(TYPES.get(each, each) for each in ([kind] if isinstance(kind, str) else kind))


def default_text(name: str, schema: Schema) -> str:
    """Return the default of an option as it is typed; empty if there is none."""
    if name in DATA_ARGUMENTS:
        return "from the data"
    if "default" not in schema:
        return ""
    value = schema["default"]
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"].rpartition(".")[2]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def options_table(options: Mapping[str, Schema], prefix: str) -> str:
    """Return a Markdown table of options."""
    rows = ["| option | description | default | values |", "|---|---|---|---|"]
    for name, schema in options.items():
        text = " ".join(schema.get("description", "").replace("``", "`").split())
        cells = (f"`--{prefix}{name}`", text, default_text(name, schema), type_text(schema))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def options_page(schema: Schema) -> str:
    """Return the options of `kindling fit` that do not belong to a model or data source."""
    groups = {"checkpoint": "Checkpoints", "early_stopping": "Early stopping", "trainer": "Trainer"}
    general = {name: each for name, each in schema["properties"].items() if name not in groups}
    general.pop("weights_only", None)
    page = [
        "# Options of fit",
        "Each option can be typed (`--trainer.max_epochs 5`) or written in a recipe (`trainer: {max_epochs: 5}`). "
        "A typed option overrides the recipe. [Models](models.md) and [data sources](data.md) have their own options.",
        "## General",
        options_table(general, ""),
    ]
    for name, title in groups.items():
        page += [f"## {title}", options_table(schema["properties"][name]["properties"], f"{name}.")]
    page += ["## Averaged weights"]
    for name in ("EMA", "SWA"):
        page += [f"### {name}", options_table(schema["$defs"][f"kindling.training.{name}"]["properties"], "averaging.")]
    return "\n\n".join(page) + "\n"


def classes_page(schema: Schema, title: str, prefix: str, *endings: str) -> str:
    """Return the options of all models or data sources that can be used as they are."""
    page = [f"# {title}"]
    for name, each in schema["$defs"].items():
        short = name.removeprefix("kindling.")
        if "." not in short and short.endswith(endings) and not short.startswith(("Base", "ClassificationData")):
            page += [f"## {short}", each["description"], options_table(each["properties"], f"{prefix}.")]
    return "\n\n".join(page) + "\n"


def api_page() -> str:
    """Return directives by which mkdocstrings documents the public names."""
    modules = "`kindling`, `kindling.estimators` or `kindling.testing`"
    page = ["# Python API", f"Everything below is imported from {modules}."]
    for name in kindling.__all__:
        public = getattr(kindling, name)
        page.append(f"::: {public.__module__}.{public.__qualname__}")
    # With the members of base classes that are not public: NetworkModule, MetricsModule and LearnedTargets.
    page[page.index("::: kindling.models.task.BaseTask")] += "\n    options: {inherited_members: true}"
    for name in ("images.datamodule.ImageFolderDataModule", "tables.datamodule.TableDataModule"):
        learned = "task, class_names, num_classes, class_counts"
        page[page.index(f"::: kindling.data.{name}")] += f"\n    options: {{inherited_members: [{learned}]}}"
    page += [f"::: kindling.estimators.tables.{name}" for name in kindling.estimators.__all__]
    page.append("::: kindling.testing")
    return "\n\n".join(page) + "\n"
