"""One-line messages for errors in options and recipes, in place of jsonargparse's long ones.

Its errors have no attributes, so their text is parsed; tests/cli/test_entry_point.py fails if the text changes.
"""

import ast
import os
import re
from collections.abc import Iterable, Sequence
from pkgutil import resolve_name

from kindling.cli.class_names import class_arguments, describe_unknown
from kindling.utils.errors import describe_misuse, unknown_option
from kindling.utils.text import shorten, suggest

# Messages of jsonargparse about a value that should be a class but is not even a string.
NOT_A_CLASS = re.compile(
    "unhashable type|is not iterable|Not a valid subclass|bytes-like object|Expected a dot import path string: *$",
    re.MULTILINE,
)

# Messages about a name that is not a class, or a class of another kind.
IMPORT_PATH = re.compile(
    r"(?:Expected a dot import path string|Unexpected import path format): (\S.*?)(?:\. Got value: .*)?$"
    r"|Import path (\S+) does not correspond",
    re.MULTILINE,
)
# Classes that it reports for an option without a class.
NO_NAMES = ("lightning.LightningModule", "lightning.LightningDataModule", "lightning.Callback", "typing.Union")
CLASS_MISSING = "its class is missing: give --{key} NAME, or a --config with its class_path, before its options"


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
    if reason := describe_misuse(message, options, typed) or misplaced_value(key, message):
        return reason
    if found := re.search(r"Requirement '(([\w-]+)[^']*)' not met", message):  # of a logger
        return f"{found[2]} is not installed: pip install '{found[1]}'"
    owners = re.findall(r"class_path[= ]'([\w.]+)'", message)
    if found := re.search(r"Multiple subclasses with name (\w+)\. .*: (.+)\.$", message, re.MULTILINE):
        return f"{key}: several classes are called {found[1]}: use a full name, {found[2]}"
    if reason := wrong_class(key, message, owners):
        return f"{key}: {reason}"
    if found := re.search("does not accept option '(.*)'", message):
        return unknown_option(found[1], options)
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        known = class_arguments(owners[-1]) if owners else options
        *path, name = ".".join(filter(None, [key, found[1]])).split(".")
        group = "".join(f"{part}." for part in path)
        near = suggest(name, known, group)
        subject = f"{owners[-1].rpartition('.')[2]} has" if owners and len(path) == 1 else "there is"
        return f"{subject} no option {group}{name}{near}"
    if found := re.search(r"arguments are required: (.+)", message):
        names = ", ".join(f"{key}.{name}" if key else f"--{name.split('.', 1)[-1]}" for name in found[1].split(", "))
        return f"{names} must be given"
    if found := re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE):
        is_class = "Not a valid subclass" in message and "a <class 'str'>" not in message
        if key and not is_class and (kinds := expected(message)):
            return f"{key}: {found[1]} is not {' or '.join(kinds)}"
        if key and (sizes := re.search(r"Expected a tuple with (\d+) elements", message)):
            return f"{key}: expected a list of {sizes[1]} values, got {found[1]}"
        if key and owners:
            return f"{key}: {describe_unknown(key, owners[-1])}"
    if key and NOT_A_CLASS.search(message):
        return f"{key}: expected the name of a class, or class_path and init_args"
    lines = [f"{key}:", *reasons(message)] if key else reasons(message)
    return re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(lines))


def wrong_class(key: str, message: str, owners: Sequence[str]) -> str:
    """Return what is wrong with the class of an option; empty if the message is about something else.

    Args:
        key: Name of the option.
        message: Message of jsonargparse.
        owners: Class paths in the message, outermost first.
    """
    if owners and "is not accepted" in message:
        if owners[-1] in NO_NAMES:
            return CLASS_MISSING.format(key=key)
        if not isinstance(resolve_name(owners[-1]), type):
            return describe_unknown(key, owners[-1])
    if {"float", "int"}.intersection(expected(message)):  # an option that takes a number or a class
        return ""
    if found := IMPORT_PATH.search(message):
        name = found[1] or found[2]
        return "null is not allowed" if name == "None" else describe_unknown(key.removesuffix(".help"), name)
    if found := re.search(r'"(\S+)" is not a subclass of', message):
        return describe_unknown(key.removesuffix(".help"), found[1])
    if found := re.search(r"Expected (?:a path|an instantiatable class,) but (\S+) (?:is abstract|either)", message):
        return describe_unknown(key, found[1])
    if owners and "No module named" in message:
        return describe_unknown(key, owners[-1])
    return ""


def misplaced_value(key: str, message: str) -> str:
    """Return one line about a file or value in the wrong place; empty for other messages."""
    if found := re.search(r"Unexpected config: (.*)", message, re.DOTALL):
        return f"config: {shorten(found[1], 60)} is not a YAML file with options"
    if found := re.search(r"Unable to load config (.*)", message):
        return f"{key}: expected options such as --{key}.NAME VALUE, got {shorten(found[1], 60)}"
    if found := re.search(r"(?:File does not exist|Path is not a file): '(.*)'", message):
        return f"{key}: there is no file {os.path.relpath(found[1])}"
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
