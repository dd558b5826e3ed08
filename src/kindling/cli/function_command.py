"""Run a typed function as a command: its arguments are the options, `*args` the words, its docstring is the help."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser

from kindling.cli.option_formatter import OptionFormatter
from kindling.cli.parser_errors import one_line
from kindling.utils.console import silence_libraries
from kindling.utils.errors import UsageError
from kindling.utils.plugins import add_option, load_plugins
from kindling.utils.text import program_name


def run_function(function: Callable[..., None], options: Sequence[str]) -> None:
    """Parse options by the signature of a function, and call it.

    Raises:
        UsageError: If the options are invalid.
    """
    silence_libraries()
    name = f"{program_name()} {function.__name__}"
    several = [
        each.name for each in inspect.signature(function).parameters.values() if each.kind is each.VAR_POSITIONAL
    ]
    usage = " ".join([name, *(f"[{each.upper()} ...]" for each in several), "[--OPTION VALUE ...]"])
    style: dict[str, Any] = {"formatter_class": OptionFormatter, "exit_on_error": False, "allow_abbrev": False}
    parser = ArgumentParser(prog=name, usage=usage, **style)
    names = parser.add_function_arguments(function, as_group=False, fail_untyped=True)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:  # --raw is short for --raw true
            action.nargs, action.const = "?", True
    about = {each.arg_name: each.description for each in docstring_parser.parse(function.__doc__ or "").params}
    for each in several:
        parser.add_argument(each, nargs="*", default=[], metavar=each.upper(), help=about[each])
    add_option(parser)
    parser.description = (function.__doc__ or "").partition("Args:")[0]
    try:
        config = parser.parse_args(load_plugins(options))
    except ArgumentError as error:
        raise UsageError(one_line(str(error), names)) from error
    arguments: dict[str, Any] = {name: config[name] for name in names}
    function(*(word for each in several for word in config[each]), **arguments)
