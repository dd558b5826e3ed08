"""Reading a table: CSV as it comes out of spreadsheets, databases and other tools, and Parquet."""

import csv
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from kindling.wording import listed

if TYPE_CHECKING:
    from pandas import DataFrame

SEPARATORS = ",;\t|"


def read_table(path: str | Path) -> "DataFrame":
    """Reads a file of rows; the separator, the encoding and a decimal comma of a CSV are recognised.

    Nothing but an empty field is missing yet: what "NA" and "-" mean is for the column to say.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no table, has no rows or two columns of one name.
        ImportError: If it is Parquet and pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give a CSV or Parquet file")
    frame = read_parquet(path) if path.suffix in (".parquet", ".pq") else read_csv(path)
    if len(frame) == 0:
        raise ValueError(f"{path} has no rows")
    return frame


def read_parquet(path: Path) -> "DataFrame":
    """Reads a Parquet file, without what pandas may have stored as its index."""
    import pandas as pd  # half a second to import, needed by tables alone

    try:
        frame = pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except ImportError as error:
        raise ImportError("reading Parquet needs pyarrow: pip install 'kindling[parquet]'") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or no Parquet file") from error
    for name in frame:
        if frame[name].dtype.kind == "O":  # lists and decimals too
            frame[name] = frame[name].map(str, na_action="ignore")
    return frame.rename(columns=str)


def read_csv(path: Path) -> "DataFrame":
    """Reads a CSV in UTF-8, in UTF-16 as Excel writes it, or else in Latin-1."""
    with path.open("rb") as file:
        begin = file.read(1000)
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _read_csv(path, "utf-16")
    if b"\0" in begin:
        raise ValueError(f"{path} is no text: give a CSV or Parquet file")
    try:
        return _read_csv(path, "utf-8-sig")
    except UnicodeDecodeError:
        return _read_csv(path, "latin-1")  # takes any bytes


def _read_csv(path: Path, encoding: str) -> "DataFrame":
    import pandas as pd

    # pandas would find out the separator too, but with its Python engine: ten times as slow.
    with path.open(encoding=encoding, newline="") as file:
        lines = [line for line in islice(file, 100) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty")
    separator = max(SEPARATORS, key=lambda candidate: _fields(lines, candidate))
    header = next(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, start=1)]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"{path} has more than one column {listed(twice)}: rename all but one")
    try:
        frame = pd.read_csv(
            path,
            sep=separator,
            header=0,
            names=names,
            encoding=encoding,
            decimal="," if separator == ";" and _has_decimal_commas(lines[1:]) else ".",
            skipinitialspace=True,
            keep_default_na=False,
            na_values=[""],
            low_memory=False,  # else the types of a long column may differ from part to part
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no regular CSV: {str(error).strip()}") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first fields for names of the rows
        raise ValueError(f"the rows of {path} have more fields than its first line, which must name all columns")
    return frame


def _fields(lines: list[str], separator: str) -> int:
    rows = list(csv.reader(lines, delimiter=separator))
    return min(map(len, rows[:-1] or rows))  # the last one may go on beyond these lines


def _has_decimal_commas(lines: list[str]) -> bool:
    fields = [field.strip(' "') for line in lines for field in line.split(";")]
    numbers = [field for field in fields if field.lstrip("-").replace(",", "", 1).replace(".", "", 1).isdigit()]
    return sum("," in number for number in numbers) > sum("." in number for number in numbers)
