"""Reading of CSV files, as spreadsheets and databases write them, and of Parquet files."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from kindling.utils.console import progress
from kindling.utils.text import join_names, shorten, strip_control_characters, suggest_path

if TYPE_CHECKING:
    from pandas import DataFrame

SEPARATORS = ",;\t|"


def read_table(path: str | Path) -> "DataFrame":
    """Read a CSV or Parquet file; the separator and the encoding of a CSV are inferred.

    All fields of a CSV are read as text, and only empty ones are missing: what "007", "NA" and "1,5" mean depends on
    the column.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a table, has no rows or two columns of the same name.
        ImportError: If it is Parquet and pyarrow is not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder: use a CSV or Parquet file")
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found{suggest_path(path, Path.is_file) or ': use a CSV or Parquet file'}")
    with progress(f"reading {path}"):
        frame = read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else read_csv(path)
    if len(frame) == 0:
        raise ValueError(f"{path} has no rows")
    return frame


def read_parquet(path: Path) -> "DataFrame":
    """Read a Parquet file without the index that pandas may have stored."""
    import pandas as pd  # imported here because it takes 0.5 s

    try:
        frame = pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install 'kindling-ml[parquet]'") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a Parquet file") from error
    for name in frame:
        if frame[name].dtype.kind == "O":  # also lists; decimals stay numbers
            frame[name] = frame[name].map(lambda cell: cell if isinstance(cell, Decimal) else str(cell), "ignore")
    return frame.rename(columns=str)


def read_csv(path: Path) -> "DataFrame":
    """Read a CSV in UTF-8, UTF-16 (as Excel writes it) or Windows-1252."""
    import pandas as pd

    with path.open("rb") as file:
        head = file.read(1000)
    is_utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    if b"\0" in head and not is_utf16:
        raise ValueError(f"{path} is not a text file: use a CSV or Parquet file")
    try:
        try:
            return _read_csv(path, "utf-16" if is_utf16 else "utf-8-sig")
        except UnicodeError as error:
            if is_utf16:
                raise ValueError(f"{path} is damaged: it starts as UTF-16 but is not valid UTF-16") from error
            return _read_csv(path, "cp1252")
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is not a regular CSV: {_explain_parser_error(str(error))}") from error


def _explain_parser_error(message: str) -> str:
    """Return the cause of an error of pandas or the csv module, and what to do."""
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        expected, line, fields = map(int, found.groups())
        return f"line {line} has {fields} fields, expected {expected}; quote fields that contain the separator"
    if found := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"the quotation mark that opens in row {int(found[1]) + 1} (the header is row 1) is never closed"
    if "field larger than" in message:
        limit = f"{csv.field_size_limit():,} characters"
        return f"a field has more than {limit}; close its quotation mark, or check the separator"
    return "check its separator, quotation marks and line endings"


def _read_csv(path: Path, encoding: str) -> "DataFrame":
    import pandas as pd

    errors = "replace" if encoding == "cp1252" else "strict"
    # pandas can infer the separator only with its Python engine, which is ten times as slow.
    with path.open(encoding=encoding, errors=errors, newline="") as file:
        lines = [line for line in islice(file, 100) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    separator = max(SEPARATORS, key=lambda candidate: _fields(lines, candidate))
    sep_line = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE)  # written and read by Excel
    if sep_line:
        separator = sep_line[1]
        del lines[0]
    header = next(csv.reader(lines, delimiter=separator, skipinitialspace=True), [])
    names = [
        name.strip() if strip_control_characters(name).strip() else f"column {number}"
        for number, name in enumerate(header, start=1)
    ]
    if duplicates := [name for name, times in Counter(names).items() if times > 1]:
        repeated = join_names([shorten(name, 80) for name in duplicates], max_names=2)
        raise ValueError(f"{path} has more than one column {repeated}: rename all but one")
    frame = pd.read_csv(
        path,
        sep=separator,
        skiprows=1 if sep_line else 0,
        header=0,
        names=names,
        encoding=encoding,
        encoding_errors=errors,
        dtype=str,
        skipinitialspace=True,
        keep_default_na=False,
        na_values=[""],
    )
    frame.attrs["separator"] = separator  # a hint at decimal commas
    frame.attrs |= {"encoding": encoding, "lines_before_rows": 2 if sep_line else 1}  # for `locate_row`
    if not isinstance(frame.index, pd.RangeIndex):  # pandas used the first fields as the index
        raise ValueError(f"the rows of {path} have more fields than its header, which must name all columns")
    return frame


def locate_row(path: str | Path, frame: "DataFrame", row: int) -> str:
    """Return the number of a row of a file for messages, and its line in a CSV: `row 3 (counted from 0, line 5)`."""
    line = None
    if "encoding" in frame.attrs:
        with open(path, encoding=frame.attrs["encoding"], errors="replace", newline="") as file, suppress(csv.Error):
            starts = _lines_of_rows([*file], frame.attrs["separator"])
            line = next(islice(starts, row + frame.attrs["lines_before_rows"], None), None)
    return f"row {row} (counted from 0{f', line {line}' if line else ''})"


def _lines_of_rows(lines: Sequence[str], separator: str) -> Iterator[int]:
    """Yield the line, counted from 1, on which each row of a CSV file starts."""
    start, reader = 1, csv.reader(lines, delimiter=separator, skipinitialspace=True)
    for fields in reader:
        if len(fields) > 1 or lines[reader.line_num - 1].strip():  # pandas skips blank lines, too
            yield start
        start = reader.line_num + 1


def _fields(lines: list[str], separator: str) -> int:
    rows = list(csv.reader(lines, delimiter=separator))
    return min(map(len, rows[:-1] or rows))  # the last row may be incomplete
