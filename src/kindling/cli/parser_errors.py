"""One-line messages for errors in options and recipes, in place of jsonargparse's long ones.

Its errors have no attributes, so their text is parsed; tests/cli/test_entry_point.py fails if the text changes.
"""

import ast
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from kindling.cli.class_names import class_arguments, describe_unknown
from kindling.utils.errors import describe_misuse, unknown_option
from kindling.utils.text import shorten, suggest

# Messages of jsonargparse about a value that should be a class but is not even a string.
NOT_A_CLASS = (
    "unhashable type|is not iterable|Not a valid subclass|bytes-like object|Expected a dot import path string: *$"
)
# Messages about a name that is not a class, or a class of another kind.
IMPORT_PATH = (
    r"(?:Expected a dot import path string|Unexpected import path format): (\S.*?)(?:\. Got value: .*)?$"
    r"|Import path (\S+) does not correspond"
)
# Classes that it reports for an option without a class.
NO_NAMES = ("lightning.LightningModule", "lightning.LightningDataModule", "lightning.Callback", "typing.Union")
PLACEHOLDERS = {"data_dir": "FOLDER", "path": "PATH", "target": "COLUMN", "model": "NAME"}
CLASS_MISSING = "its class is missing: give --{key} NAME, or a --config with its class_path, before its options"


@dataclass(frozen=True)
class Message:
    """A message of jsonargparse.

    Attributes:
        text: The message.
        key: Name of the option that it is about; empty if it names none.
        owners: Class paths in it, outermost first.
        options: Names of all options, without the dashes.
    """

    text: str
    key: str
    owners: Sequence[str]
    options: Sequence[str]

    def find(self, pattern: str) -> re.Match[str] | None:
        """Return the first match of a pattern, whose `$` is the end of any line."""
        return re.search(pattern, self.text, re.MULTILINE)


def one_line(message: str, options: Iterable[str] = (), typed: Sequence[str] = ()) -> str:
    """Return a message of jsonargparse in one line: the option, what is wrong, and the most similar valid name.

    Args:
        message: Message of jsonargparse; any other text is only joined to one line.
        options: Names of all options, without the dashes.
        typed: Command line, to find out which option of a class lacks its value.
    """
    options = list(options)
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    key = key or "".join(re.findall(r"^--([\w.]+): ", message))
    parsed = Message(message, key, re.findall(r"class_path[= ]'([\w.]+)'", message), options)
    explanations = (
        misplaced_value,
        missing_package,
        ambiguous_class,
        wrong_class,
        refused_option,
        missing_option,
        wrong_value,
        not_a_class,
    )
    explained = (explain(parsed) for explain in explanations)  # the first that applies
    if reason := describe_misuse(message, options, typed) or next(filter(None, explained), ""):
        return reason
    lines = [f"{key}:", *reasons(message)] if key else reasons(message)
    return re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(lines))


def misplaced_value(message: Message) -> str:
    """Return one line about a file or value in the wrong place; empty for other messages."""
    if found := re.search(r"Unexpected config: (.*)", message.text, re.DOTALL):
        return f"config: {shorten(found[1], 60)} is not a YAML file with options"
    if found := message.find(r"Unable to load config (.*)"):
        group = message.key
        return f"{group}: expected options such as --{group}.NAME VALUE, got {shorten(found[1], 60)}"
    if found := message.find(r"(?:File does not exist|Path is not a file): '(.*)'"):
        return f"{message.key}: there is no file {os.path.relpath(found[1])}"
    return ""


def missing_package(message: Message) -> str:
    """Return one line about a package that a logger needs; empty for other messages."""
    if found := message.find(r"Requirement '(([\w-]+)[^']*)' not met"):
        return f"{found[2]} is not installed: pip install '{found[1]}'"
    return ""


def ambiguous_class(message: Message) -> str:
    """Return one line about a name that several classes have; empty for other messages."""
    if found := message.find(r"Multiple subclasses with name (\w+)\. .*: (.+)\.$"):
        return f"{message.key}: several classes are called {found[1]}: use a full name, {found[2]}"
    return ""


def wrong_class(message: Message) -> str:
    """Return one line about the class of an option; empty for other messages."""
    reason = _class_problem(message)
    return f"{message.key}: {reason}" if reason else ""


def _class_problem(message: Message) -> str:
    key, owners = message.key, message.owners
    if owners and "is not accepted" in message.text:
        if owners[-1] in NO_NAMES:
            return CLASS_MISSING.format(key=key)
        if not isinstance(resolve_name(owners[-1]), type):
            return describe_unknown(key, owners[-1])
    if {"float", "int"}.intersection(expected(message.text)):  # an option that takes a number or a class
        return ""
    if found := message.find(IMPORT_PATH):
        name = found[1] or found[2]
        return "null is not allowed" if name == "None" else describe_unknown(key.removesuffix(".help"), name)
    if found := message.find(r'"(\S+)" is not a subclass of'):
        return describe_unknown(key.removesuffix(".help"), found[1])
    if found := message.find(r"Expected (?:a path|an instantiatable class,) but (\S+) (?:is abstract|either)"):
        return describe_unknown(key, found[1])
    if owners and "No module named" in message.text:
        return describe_unknown(key, owners[-1])
    return ""


def refused_option(message: Message) -> str:
    """Return one line about an option that does not exist; empty for other messages."""
    if found := message.find("does not accept option '(.*)'"):
        return unknown_option(found[1], message.options)
    if not (found := message.find(r"Option '([^']+)' is not accepted")):
        return ""
    owners = message.owners
    known = class_arguments(resolve_name(owners[-1])) if owners else message.options
    *path, name = ".".join(filter(None, [message.key, found[1]])).split(".")
    group = "".join(f"{part}." for part in path)
    subject = f"{owners[-1].rpartition('.')[2]} has" if owners and len(path) == 1 else "there is"
    return f"{subject} no option {group}{name}{suggest(name, known, group)}"


def missing_option(message: Message) -> str:
    """Return one line about required options; empty for other messages."""
    if not (found := message.find(r"arguments are required: (.+)")):
        return ""
    key = message.key
    names = [f"{key}.{name}" if key else name.split(".", 1)[-1] for name in found[1].split(", ")]
    options = [f"--{name} {PLACEHOLDERS.get(name.rpartition('.')[2], 'VALUE')}" for name in names]
    recipe = ", or a recipe such as --config quickstart" * (names[0] == "model")
    return f"{', '.join(names)} must be given: add {' '.join(options)}{recipe}"


def wrong_value(message: Message) -> str:
    """Return one line about the value of an option; empty for other messages."""
    key, owners = message.key, message.owners
    if not key or not (found := message.find(r"(?:Got|Given) value: (.*?)(?:\. Got value: .*)?$")):
        return ""
    is_class = "Not a valid subclass" in message.text and "a <class 'str'>" not in message.text
    if not is_class and (kinds := expected(message.text)):
        return f"{key}: {found[1]} is not {' or '.join(kinds)}"
    if sizes := message.find(r"Expected a tuple with (\d+) elements"):
        return f"{key}: expected a list of {sizes[1]} values, got {found[1]}"
    return f"{key}: {describe_unknown(key, owners[-1])}" if owners else ""


def not_a_class(message: Message) -> str:
    """Return one line about a value in place of a class; empty for other messages."""
    if message.key and message.find(NOT_A_CLASS):
        return f"{message.key}: expected the name of a class, or class_path and init_args"
    return ""


def reasons(message: str) -> list[str]:
    """Return the lines of a message that give a reason."""
    headings = (
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value",
        "Problem with",
        "Expected a <class 'NoneType'>",
    )
    lines = [re.sub(r'Parser key "[^"]+":', "", line).strip().removeprefix("- ") for line in message.splitlines()]
    return [line for line in lines if line and not line.startswith(headings)]


def expected(message: str) -> list[str]:
    """Return the accepted types and choices, for people."""
    kinds = re.findall(r"Expected an? (<class '[\w.]+'>|typing\.Literal\[.*?\])", message)
    literals = [ast.literal_eval(kind.removeprefix("typing.Literal")) for kind in kinds if "Literal" in kind]
    choices = [choice for literal in literals for choice in literal]
    names = [kind.split("'")[1] for kind in kinds if "Literal" not in kind and "NoneType" not in kind]
    names = ["a list such as [1, 2]" if name in ("tuple", "list") else name for name in names]
    return [*names, *([f"one of {', '.join(dict.fromkeys(map(str, choices)))}"] if choices else [])]
