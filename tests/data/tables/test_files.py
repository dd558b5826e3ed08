import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from conftest import Command
from kindling.data.tables.files import locate_row, read_table
from rows import FIT, read


@pytest.mark.parametrize(
    ("separator", "encoding", "decimal"),
    [(",", "utf-8-sig", "."), (";", "utf-8", "."), (";", "latin-1", ","), ("\t", "utf-16", ","), ("|", "cp1252", ",")],
)
def test_separators_and_encodings_are_recognized(
    table: pd.DataFrame, separator: str, encoding: str, decimal: str
) -> None:
    table["plan"] = table["plan"].replace(
        {"gold": "größte, teuerste", "team": "ab 5 €" if encoding != "latin-1" else "ab 5"}
    )
    table.to_csv("customers.csv", index=False)
    plain = read()
    assert "größte, teuerste" in plain.fitted["columns"][2]["values"]
    table.to_csv("other.csv", index=False, sep=separator, encoding=encoding, decimal=decimal)
    other = read("other.csv")
    for column in other.fitted["columns"]:
        if column["kind"] == "number":
            assert column["decimal"] == decimal
            column["decimal"] = "."
    assert other.fitted == plain.fitted
    assert torch.equal(other.train.inputs, plain.train.inputs)


def test_spaces_after_separators_and_columns_without_a_name_are_taken() -> None:
    lines = [f"{row % 7}, {'ab'[row % 2]}, {'' if row == 2 else 'xyz'[row % 3]},no\n" for row in range(30)]
    Path("spaces.csv").write_text("size, class, letter,\n" + "".join(lines) + "\n\n")
    data = read("spaces.csv", "class")
    assert data.class_names == ("a", "b")
    assert [column["name"] for column in data.fitted["columns"]] == ["size", "letter"]
    assert list(data.fitted["left_out"]) == ["column 4"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "t.csv is empty"),
        (b"a,b,class\n", "t.csv has no rows"),
        (b"a,b,a,class\n1,2,3,x\n", "t.csv has more than one column a"),
        (b"\x16,\x16,class\n1,2,x\n", "has only one class (x)"),
        pytest.param(b"%b,%b,class\n" % (2 * (b"x" * 400,)), f"one column {'x' * 49} ... {'x' * 26}:", id="long"),
        (b"column 2,,class\n1,2,x\n", "t.csv has more than one column column 2: rename"),
        (b"a,class\n1,x\n1,2,y\n", "t.csv is not a regular CSV: line 3 has 3 fields, expected 2; quote fields"),
        (
            b'a,class\n1,x\n"2,y\n3,x\n',
            "the quotation mark that opens in row 3 (the header is row 1) is never closed",
        ),
        (b"a,class\n1,x,0\n1,y,0\n", "the rows of t.csv have more fields than its header"),
        (b"PK\0\3", "t.csv is not a text file"),
        (b"a,class\n" + b"x" * 140_000 + b",y\n", "has more than 131,072 characters; close its quotation mark"),
        (b'[{"a": "' + b'1", "b": 2}, {"a": "' * 10_000 + b'1"}]', "t.csv is not a regular CSV"),
        ("a,class\n1,x\n".encode("utf-16")[:-1], "t.csv is damaged: it starts as UTF-16"),
        (b"a,class\n1,x\n2,y\n3,y\n4,y\n", "too few of x (1): remove these rows, merge classes, or split the rows"),
        (b"a,class\n1,\n2, \n", "has no values"),
    ],
)
def test_an_invalid_file_ends_in_one_line(content: bytes, words: str) -> None:
    Path("t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        read("t.csv", "class")
    assert "\n" not in str(error.value)


def test_parquet_is_read_like_a_csv(table: pd.DataFrame) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table.assign(lists=[[row % 5] for row in range(200)]).to_parquet("customers.parquet")
    table.convert_dtypes().astype({"plan": "category"}).to_parquet("nullable.parquet")
    plain = read()
    Path("nullable.parquet").rename("nullable.PARQUET")
    for file in ("customers.parquet", "nullable.PARQUET"):
        other = read(file, drop=("lists",) if file == "customers.parquet" else ())
        assert other.fitted == plain.fitted
        assert torch.equal(other.train.inputs, plain.train.inputs)
    Path("bad.parquet").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"bad\.parquet is damaged or not a Parquet file"):
        read("bad.parquet")


def test_parquet_without_pyarrow_names_the_extra(kindling: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    Path("t.parquet").write_bytes(b"PAR1")
    result = kindling(*FIT, "--data.path", "t.parquet")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "pip install 'kindling-ml[parquet]'" in result.err


def test_the_line_that_excel_wants_first_is_skipped(table: pd.DataFrame) -> None:
    plain = read()
    for line, separator in (("sep=;", ";"), ("SEP=,", ","), ('"sep=\t"', "\t")):
        text = table.to_csv(index=False, sep=separator, lineterminator="\r\n")
        Path("excel.csv").write_text(f"{line}\r\n{text}", newline="", encoding="utf-8-sig")
        assert read("excel.csv").fitted == plain.fitted


def test_windows_encodings_are_read_and_invalid_bytes_replaced() -> None:
    lines = b"".join(b"%d,%s\n" % (row % 3, b"\x80 5" if row % 2 else b"\x93\x81\x94") for row in range(30))
    Path("windows.csv").write_bytes(b"a,class\n" + lines)
    assert read("windows.csv", "class").class_names == ("\u201c\ufffd\u201d", "€ 5")


def test_a_row_is_named_with_the_line_that_an_editor_shows() -> None:
    Path("odd.csv").write_text('sep=;\nx;y\n1;a\n\n2;"b\nb"\n   \n3;c\n', encoding="utf-8")
    frame = read_table("odd.csv")
    assert [locate_row("odd.csv", frame, row) for row in range(3)] == [
        f"row {row} (counted from 0, line {line})" for row, line in enumerate((3, 5, 8))
    ]
    assert locate_row("odd.csv", pd.DataFrame(frame.to_dict()), 1) == "row 1 (counted from 0)"
    Path("one.csv").write_text('x\n""\n\n5\n', encoding="utf-8")
    frame = read_table("one.csv")
    assert [locate_row("one.csv", frame, row)[-7:] for row in range(len(frame))] == ["line 2)", "line 4)"]
