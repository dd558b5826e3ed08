"""`kindling schema`: the JSON Schema of recipes, for completion and checks in editors."""

import json
import re
import shlex
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from docstring_parser import parse
from jsonargparse import capture_parser
from jsonargparse._completions_jsonschema import ParserJsonschema
from jsonargparse._typehints import get_callable_return_type
from typing_extensions import override

from kindling.cli.class_names import choosable_paths, loaded_class
from kindling.cli.help_pages import FIT_HELP, HELP
from kindling.cli.lightning_cli import KindlingCLI
from kindling.cli.trainer_checks import CHOICES
from kindling.training import sharding  # noqa: F401  # the schema offers the strategies that are imported
from kindling.utils.console import say
from kindling.utils.files import atomic_write
from kindling.utils.plugins import plugin_options, prefer_plugins

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"  # the latest that all YAML extensions of editors support
MAX_CLASSES = 150  # if a base class has more subclasses, such as torch.nn.Module, any class is accepted
# Paths that are valid but not offered: other paths of known classes, and those in modules not imported.
OTHER_PATHS = r"^(?:{others}|(?!(?:kindling(?:\.\w+)*|{modules})\.\w+$)[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)$"
LITERAL_KEYWORDS = ("if", "default", "enum")  # their values are not changed
DEFINITIONS = "#/$defs/"
SCHEMA_MAPS = {"properties", "$defs"}  # keywords whose values map names to schemas
FILE: Schema = {"type": "string", "pattern": r"\.(ya?ml|json)$", "description": "A file with these options."}


class RecipeSchema(ParserJsonschema):
    """jsonargparse's schema of a parser, with short names of classes, and their arguments checked.

    Its public `get_completion_script("jsonschema")` takes neither a short name nor an optimizer without `params`:
    https://github.com/omni-us/jsonargparse/blob/v4.53.0/jsonargparse/_completions_jsonschema.py
    """

    @override
    def class_ref(self, class_type: Any, action: Any, subclass: bool, skip: int = 0) -> Schema:
        if not subclass:
            reference: Schema = super().class_ref(class_type, action, subclass)
            return reference
        names = class_names(class_type)
        if not names:
            return {"anyOf": [{"type": "string"}, self.unknown_class_path_schema()]}
        name = ":".join(["any", re.sub(r"\W+", ".", str(class_type)), *["factory"] * skip])
        if name not in self.defs:
            self.defs[name] = {}  # set first: a class may take another of its kind
            self.defs[name] |= self.choice(names, action, skip)
        return {"$ref": f"{DEFINITIONS}{name}"}

    def choice(self, names: dict[str, list[str]], action: Any, skip: int) -> Schema:
        """Return the schema of an option that takes a class: its name, or its name with arguments."""
        full = sorted({name for same in names.values() for name in same if "." in name})
        modules = "|".join(re.escape(name) for name in sorted({path.rpartition(".")[0] for path in full}))
        others = "|".join(re.escape(path) for path in full if path not in names)
        named: list[Schema] = [
            {"enum": [name for name in same if "." not in name or name == path], "description": describe(path)}
            for path, same in names.items()
        ]
        named.append({"type": "string", "pattern": OTHER_PATHS.format(others=others or "-", modules=modules)})
        with_arguments: Schema = {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "class_path": {"anyOf": named, "description": "Name or full path of the class."},
                "init_args": {"type": "object", "description": "Arguments of the class."},
                "dict_kwargs": {"type": "object", "description": "Further keyword arguments."},
            },
            "allOf": [
                {
                    "if": {"properties": {"class_path": {"enum": same}}, "required": ["class_path"]},
                    "then": {"properties": {"init_args": self.arguments(path, action, skip)}},
                }
                for path, same in names.items()
            ],
        }
        return {"anyOf": [*named, FILE, with_arguments]}

    def arguments(self, class_path: str, action: Any, skip: int) -> Schema:
        """Return the schema of the arguments of a class, without the first `skip` ones, which are not options."""
        name = ":".join([class_path, *["factory"] * skip])
        if name not in self.defs:
            self.defs[name] = {}
            without = copy(action)
            without.sub_add_kwargs = action.sub_add_kwargs | ({"skip": {skip}} if skip else {})
            self.defs[name] |= self.class_parser_schema(class_path, without, describe(class_path))
        return {"$ref": f"{DEFINITIONS}{name}"}

    @override
    def callable_schema(self, typehint: Any, action: Any) -> Schema:
        returned = get_callable_return_type(typehint)
        if returned is None or not class_names(returned):
            return {"type": "string"}
        return self.class_ref(returned, action, subclass=True, skip=1)


def class_names(kind: Any) -> dict[str, list[str]]:
    """Return the valid names of each class of a kind, by its shortest path; empty above `MAX_CLASSES`."""
    paths = choosable_paths(kind)
    if len(paths) > MAX_CLASSES:
        return {}
    names: dict[str, list[str]] = {}
    for path in paths:
        short = path.rpartition(".")[2]
        same = [other for other in paths if other.rpartition(".")[2] == short]
        names[path] = [*([short] if prefer_plugins(same) == [path] else []), *full_paths(path)]
    return names


def full_paths(class_path: str) -> list[str]:
    """Return the paths of a class: in its module, and in the packages that import it from there."""
    cls: type = resolve_name(class_path)
    parts = cls.__module__.split(".")
    paths = (".".join([*parts[:number], cls.__name__]) for number in range(1, len(parts) + 1))
    return list(dict.fromkeys([*(path for path in paths if loaded_class(path) is cls), class_path]))


def describe(class_path: str) -> str:
    """Return the first sentence of a class's docstring."""
    return parse(resolve_name(class_path).__doc__ or "").short_description or ""


def to_draft_7(value: Any) -> Any:
    """Convert a schema to draft 7, without required keys: another recipe or the command line may set them."""
    if isinstance(value, list):
        return [to_draft_7(each) for each in value]
    if not isinstance(value, dict):
        return value
    others = {key: each for key, each in value.items() if key not in SCHEMA_MAPS}
    schema = {key: each if key in LITERAL_KEYWORDS else to_draft_7(each) for key, each in others.items()}
    schema.pop("required", None)
    for key in SCHEMA_MAPS & value.keys():
        schema[key] = {name: to_draft_7(each) for name, each in value[key].items() if name != "$schema"}
    if "prefixItems" in schema:
        schema |= {"items": schema.pop("prefixItems"), "additionalItems": False}
    return schema


def locate_errors(value: Any, definitions: Mapping[str, Schema]) -> None:
    """Change schemas in place so that editors report an error at the wrong key, although there are alternatives.

    For `anyOf`, editors report the whole block. So it accepts any object or list here, and `if` and `then` check the
    contents.

    Args:
        value: A schema or a part of one.
        definitions: The schemas that it refers to.
    """
    if isinstance(value, list):
        for each in value:
            locate_errors(each, definitions)
    if not isinstance(value, dict):
        return
    for key, each in value.items():
        if key in SCHEMA_MAPS:
            locate_errors(list(each.values()), definitions)
        elif key not in LITERAL_KEYWORDS:
            locate_errors(each, definitions)
    alternatives = list(value.get("anyOf", ()))
    for kind in ("object", "array"):
        matching = [each for each in alternatives if accepts(each, kind, definitions)]
        if matching and {"type": kind} not in matching and {} not in matching:
            value["anyOf"] = [*value["anyOf"], {"type": kind}]
            check = matching[0] if len(matching) == 1 else {"anyOf": matching}
            value["allOf"] = [*value.get("allOf", ()), {"if": {"type": kind}, "then": check}]


def accepts(schema: Schema, kind: str, definitions: Mapping[str, Schema]) -> bool:
    """Return whether a schema may accept a value of a type, object or array."""
    if "$ref" in schema:
        return accepts(definitions[schema["$ref"].removeprefix(DEFINITIONS)], kind, definitions)
    if "anyOf" in schema:
        return any(accepts(each, kind, definitions) for each in schema["anyOf"])
    types = schema.get("type", [] if "enum" in schema or "pattern" in schema else kind)
    return kind in ([types] if isinstance(types, str) else types)


def recipe_schema() -> Schema:
    """Return the JSON Schema of the options of `fit`, with the classes imported so far."""
    subcommands: Any = capture_parser(lambda: KindlingCLI("fit", shlex.split(plugin_options())))._subcommands_action
    schema: Schema = to_draft_7(RecipeSchema().generate(subcommands.choices["fit"]))  # type: ignore[no-untyped-call]
    schema["properties"]["ckpt_path"] = {"type": "null"}  # only on the command line
    trainer = schema["properties"]["trainer"]["properties"]
    for option in ("accelerator", "strategy", "profiler"):
        classes = [each for each in trainer[option]["anyOf"] if "$ref" in each]
        known = [*CHOICES[option], *([None] if option == "profiler" else [])]
        trainer[option]["anyOf"] = [{"enum": known}, *classes]
    options = schema["properties"] | {f"trainer.{name}": option for name, option in trainer.items()}
    for key in options.keys() & (HELP | FIT_HELP).keys():
        options[key]["description"] = (HELP | FIT_HELP)[key]
    locate_errors(schema, schema["$defs"])
    return {"$schema": DRAFT, "title": "Kindling recipe", **{k: v for k, v in schema.items() if k != "$schema"}}


def schema(output: str = ".kindling/schema.json") -> None:
    """Write the JSON Schema of recipes, for completion and checks in editors.

    It contains all models, data sources, optimizers, schedulers, callbacks and loggers with their arguments, including
    those of plug-ins. Recipes refer to it in their first line, relative to their own folder:
    # yaml-language-server: $schema=../.kindling/schema.json

    Args:
        output: File to write.
    """
    path = Path(output)
    text = json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"schema: {path}")
