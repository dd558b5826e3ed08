"""Read text files of run folders, which may be untrusted."""

from pathlib import Path

from kindling.runs.signatures import is_own_here

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
