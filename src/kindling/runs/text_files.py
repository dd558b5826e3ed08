"""Read text files of run folders, which may be untrusted."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from kindling.runs.signatures import is_own_here
from kindling.utils.text import strip_control_characters

MAX_BYTES = 256 * 2**20  # of a text file in a run folder; metrics.csv has 100 bytes per row


def read_text(path: Path) -> str:
    """Read a text file of a run folder, which may be untrusted.

    Raises:
        OSError: If it is not a file, too large, or a link out of the folder of another user's run.
        ValueError: If it is not UTF-8 text.
    """
    if path.is_symlink() and path.parent.resolve() not in path.resolve().parents and not is_own_here(path.parent):
        raise OSError(f"{path} is a link out of a run folder from elsewhere: replace it with the file itself")
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise OSError(f"{path} is not a file, or has more than {MAX_BYTES:,} bytes")
    return path.read_text("utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the sanitized object in a JSON file; empty if the file is missing or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        stored = _sanitize(json.loads(read_text(path)))
        return stored if isinstance(stored, dict) else {}
    return {}


def _sanitize(value: Any) -> Any:
    """Remove control characters from parsed JSON, and replace numbers that are not finite floats with None."""
    match value:
        case str():
            return strip_control_characters(value)
        case int() | float():
            return value if abs(value) <= sys.float_info.max else None
        case list():
            return [_sanitize(item) for item in value]
        case dict():
            return {strip_control_characters(name): _sanitize(item) for name, item in value.items()}
    return value
