"""Names and metrics in messages: the nearest name to a wrong one, many names, and how a metric is written."""

import difflib
from collections.abc import Iterable, Sequence

_program_name = ["kindling"]


def set_program_name(name: str) -> None:
    """Set the name of the command that was typed: a project may install it under its own."""
    _program_name[:] = [name]


def program_name() -> str:
    """Return the name of the command that was typed."""
    return _program_name[0]


def suggest(name: str, known: Iterable[str], group: str = "") -> str:
    """Names the nearest known name, where one is near, upper and lower case aside.

    Examples:
        >>> suggest("lrr", ["lr", "momentum"], "optimizer.")
        ': did you mean optimizer.lr?'
        >>> suggest("colour", ["lr", "momentum"])
        ''
    """
    names = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    return f": did you mean {group}{names[near[0]]}?" if near else ""


def strip_control_characters(text: str) -> str:
    """A text on one line, with a space for each character that a terminal would not show but obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def shorten(text: str, most: int = 280) -> str:
    """Return a text on one printable line, without its middle where it is longer than `most` characters.

    Examples:
        >>> shorten("there is no file " + "x" * 50 + ": give another", most=40)
        'there is no file xxxxx ... give another'
    """
    line = " ".join(strip_control_characters(text).split())
    if len(line) <= most:
        return line
    end = most // 3  # what to do stands at the end
    return f"{line[: most - end - 5].rstrip()} ... {line[-end:].lstrip()}"


def count_noun(number: int, one: str, many: str) -> str:
    """Return a number and what it counts, in the singular or plural.

    Examples:
        >>> count_noun(1, "value is", "values are"), count_noun(2000, "value is", "values are")
        ('1 value is', '2,000 values are')
    """
    return f"{number:,} {one if number == 1 else many}"


def format_metric(value: float | None) -> str:
    """Return a metric as every command prints it: four decimals, or four significant digits if it is large or tiny.

    Examples:
        >>> format_metric(0.51015), format_metric(123456.7), format_metric(0.00001234), format_metric(None)
        ('0.5101', '1.235e+05', '1.234e-05', '')
    """
    if value is None:
        return ""
    is_usual = value == 0 or 1e-3 <= abs(value) < 1e5
    return f"{value:.4f}" if is_usual else f"{value:.4g}"


def join_names(names: Sequence[object], most: int = 20) -> str:
    """Names with commas between them; of more than `most`, the first and how many follow.

    Examples:
        >>> join_names(range(1000), most=3)
        '0, 1, 2 and 997 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
