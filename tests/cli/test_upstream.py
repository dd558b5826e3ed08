"""Private functions of jsonargparse and argparse that Kindling uses: each test fails when upstream changes one."""

import argparse
import inspect
from collections.abc import Callable

import pytest
from jsonargparse import ArgumentParser, _actions, _completions_jsonschema, _typehints, capture_parser


def test_an_option_keeps_its_type() -> None:
    parser = ArgumentParser()
    assert getattr(parser.add_argument("--x", type=int | None), "_typehint", None) == int | None


class Leaf:
    """A class with a subclass."""


class Leaf2(Leaf):
    """The subclass."""


def test_all_subclasses_of_a_type_are_found() -> None:
    paths = [f"{__name__}.{cls.__name__}" for cls in (Leaf, Leaf2)]
    assert _typehints.get_all_subclass_paths(Callable[[int], Leaf], closed_types=False) == paths  # type: ignore[arg-type]
    assert _typehints.get_callable_return_type(Callable[[int], Leaf]) is Leaf


def test_short_names_are_resolved_by_the_function_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "resolve_class_path_by_name" in inspect.getsource(_actions)
    monkeypatch.setattr(_typehints, "resolve_class_path_by_name", lambda kind, name: f"{__name__}.Leaf2")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--leaf", type=Leaf)
    assert parser.parse_args(["--leaf", "Anything"]).leaf.class_path == f"{__name__}.Leaf2"


def test_the_schema_of_classes_is_made_by_the_methods_that_are_overridden() -> None:
    methods = {"class_ref": ["class_type", "action", "subclass"], "callable_schema": ["typehint", "action"]}
    for name, parameters in methods.items():
        method = getattr(_completions_jsonschema.ParserJsonschema, name)
        assert list(inspect.signature(method).parameters)[1:] == parameters


def test_the_parser_of_a_command_is_found() -> None:
    def make() -> None:
        parser = ArgumentParser()
        parser.add_subcommands().add_subcommand("fit", ArgumentParser())
        parser.parse_args(["fit"])

    subcommands = capture_parser(make)._subcommands_action
    assert subcommands is not None
    assert set(subcommands.choices or ()) == {"fit"}


def test_a_parser_has_actions_in_groups() -> None:
    parser = argparse.ArgumentParser()
    action = parser.add_argument_group("title").add_argument("--x")
    assert action in parser._actions
    assert [group.title for group in parser._action_groups if action in group._group_actions] == ["title"]
