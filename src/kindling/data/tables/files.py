"""Reading a table: CSV as it comes out of spreadsheets, databases and other tools, and Parquet."""

import csv
import re
from collections import Counter
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from kindling.utils.console import progress
from kindling.utils.text import join_names, strip_control_characters

if TYPE_CHECKING:
    from pandas import DataFrame

SEPARATORS = ",;\t|"


def read_table(path: str | Path) -> "DataFrame":
    """Reads a file of rows; the separator and the encoding of a CSV are recognised.

    All that a CSV holds is text yet, and nothing but an empty field is missing: what "007", "NA" and "1,5" mean is
    for the column to say, not for the other rows of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table, has no rows or two columns of one name.
        ImportError: If it is Parquet and pyarrow is not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder: give a CSV or Parquet file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give a CSV or Parquet file")
    with progress(f"reading {path}"):
        frame = read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else read_csv(path)
    if len(frame) == 0:
        raise ValueError(f"{path} has no rows")
    return frame


def read_parquet(path: Path) -> "DataFrame":
    """Reads a Parquet file, without what pandas may have stored as its index."""
    import pandas as pd  # half a second to import, needed by tables alone

    try:
        frame = pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install 'kindling-ml[parquet]'") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or no Parquet file") from error
    for name in frame:
        if frame[name].dtype.kind == "O":  # lists too, but a decimal is a number
            frame[name] = frame[name].map(lambda cell: cell if isinstance(cell, Decimal) else str(cell), "ignore")
    return frame.rename(columns=str)


def read_csv(path: Path) -> "DataFrame":
    """Reads a CSV in UTF-8, in UTF-16 as Excel writes it, or else in Windows' own code."""
    import pandas as pd

    with path.open("rb") as file:
        begin = file.read(1000)
    wide = begin.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in begin and not wide:
        raise ValueError(f"{path} is no text: give a CSV or Parquet file")
    try:
        try:
            return _read_csv(path, "utf-16" if wide else "utf-8-sig")
        except UnicodeError as error:
            if wide:
                raise ValueError(f"{path} is damaged: it begins as UTF-16 but does not go on so") from error
            return _read_csv(path, "cp1252")
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is not a regular CSV: {_irregularity(str(error))}") from error


def _irregularity(message: str) -> str:
    """Return what a message of pandas or the csv module means, and what to do."""
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        expected, line, fields = map(int, found.groups())
        return f"line {line} has {fields} fields in place of {expected}; quote fields that contain the separator"
    if found := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"the quotation mark that opens in row {int(found[1]) + 1}, the header being row 1, is never closed"
    if "field larger than" in message:
        most = f"{csv.field_size_limit():,} characters"
        return f"one field has more than {most}; close its quotation mark, or check the separator"
    return "check its separator, quotation marks and line ends"


def _read_csv(path: Path, encoding: str) -> "DataFrame":
    import pandas as pd

    errors = "replace" if encoding == "cp1252" else "strict"
    # pandas would find out the separator too, but with its Python engine: ten times as slow.
    with path.open(encoding=encoding, errors=errors, newline="") as file:
        lines = [line for line in islice(file, 100) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    separator = max(SEPARATORS, key=lambda candidate: _fields(lines, candidate))
    told = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE)  # a line that Excel wants and writes
    if told:
        separator = told[1]
        del lines[0]
    header = next(csv.reader(lines, delimiter=separator, skipinitialspace=True), [])
    names = [
        name.strip() if strip_control_characters(name).strip() else f"column {number}"
        for number, name in enumerate(header, start=1)
    ]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"{path} has more than one column {join_names(twice)}: rename all but one")
    frame = pd.read_csv(
        path,
        sep=separator,
        skiprows=1 if told else 0,
        header=0,
        names=names,
        encoding=encoding,
        encoding_errors=errors,
        dtype=str,
        skipinitialspace=True,
        keep_default_na=False,
        na_values=[""],
    )
    frame.attrs["separator"] = separator  # tells something about decimal commas
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first fields for names of the rows
        raise ValueError(f"the rows of {path} have more fields than its first line, which must name all columns")
    return frame


def _fields(lines: list[str], separator: str) -> int:
    rows = list(csv.reader(lines, delimiter=separator))
    return min(map(len, rows[:-1] or rows))  # the last one may go on beyond these lines
