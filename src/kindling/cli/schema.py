"""`kindling schema`: the JSON Schema of recipes, for completion and checks in editors."""

import json
import re
import shlex
import sys
from collections.abc import Mapping
from copy import copy
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from docstring_parser import parse
from jsonargparse import capture_parser
from jsonargparse._completions_jsonschema import ParserJsonschema
from jsonargparse._typehints import get_all_subclass_paths, get_callable_return_type, get_class_types
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from typing_extensions import override

from kindling.cli.help_pages import FIT_HELP, HELP
from kindling.cli.lightning_cli import KindlingCLI
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
    """jsonargparse's schema of a parser, with short names of classes, and their arguments checked."""

    @override
    def class_ref(self, class_type: Any, action: Any, subclass: bool, skip: int = 0) -> Schema:
        if not subclass:
            reference: Schema = super().class_ref(class_type, action, subclass)
            return reference
        names = class_names(class_type)
        if not names:
            return {"anyOf": [{"type": "string"}, self.unknown_class_path_schema()]}
        bases = [f"{kind.__module__}.{kind.__name__}" for kind in get_class_types(class_type)]
        name = ":".join(["any", *bases, *["factory"] * skip])
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
    kinds = [each for each in get_class_types(kind) if each is not type]
    found = dict.fromkeys(path for each in kinds for path in get_all_subclass_paths(each))
    paths = [path for path in found if _is_importable(path)]
    if len(paths) > MAX_CLASSES:
        return {}
    names: dict[str, list[str]] = {}
    for path in paths:
        short = path.rpartition(".")[2]
        same = [other for other in paths if other.rpartition(".")[2] == short]
        names[path] = [*([short] if prefer_plugins(same) == [path] else []), *full_paths(path)]
    return names


def _is_importable(class_path: str) -> bool:
    """Return whether a class has an importable name; Lightning creates some at run time."""
    module, _, name = class_path.rpartition(".")
    return hasattr(sys.modules.get(module), name)


def full_paths(class_path: str) -> list[str]:
    """Return the paths of a class: in its module, and in the packages that import it from there."""
    cls: type = resolve_name(class_path)
    parts = cls.__module__.split(".")
    modules = (".".join(parts[:number]) for number in range(1, len(parts) + 1))
    found = [f"{name}.{cls.__name__}" for name in modules if getattr(import_module(name), cls.__name__, None) is cls]
    return list(dict.fromkeys([*found, class_path]))


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
    parser = capture_parser(lambda: KindlingCLI("fit", shlex.split(plugin_options())))
    assert parser._subcommands_action is not None
    schema: Schema = to_draft_7(
        RecipeSchema().generate(parser._subcommands_action._name_parser_map["fit"])  # type: ignore[no-untyped-call]
    )
    schema["properties"]["ckpt_path"] = {"type": "null"}  # only on the command line
    names = {
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
        "profiler": ["simple", "advanced", "pytorch", "xla", None],
    }
    trainer = schema["properties"]["trainer"]["properties"]
    for option, known in names.items():
        classes = [each for each in trainer[option]["anyOf"] if "$ref" in each]
        trainer[option]["anyOf"] = [{"enum": list(dict.fromkeys(known))}, *classes]
    for key, text in (HELP | FIT_HELP).items():
        group, _, option = key.rpartition(".")
        options = schema["properties"][group]["properties"] if group == "trainer" else schema["properties"]
        if option in options:
            options[option]["description"] = text
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
