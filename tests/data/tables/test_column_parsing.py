"""The same table in different formats: decimal signs, units, dates, missing values."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from conftest import Command
from kindling import TableDataModule, load
from kindling.data.tables.files import read_table
from kindling.data.tables.rows import encode_rows
from rows import decode, read

pytestmark = pytest.mark.usefixtures("console_logs")


def learn(values: Any, separator: str = ",", **others: Any) -> list[dict[str, Any]]:
    """Learn columns `x` and `others` of a file."""
    rows = pd.DataFrame({"x": values, **others, "class": np.arange(len(values)) % 2})
    rows.to_csv("train.csv", index=False, sep=separator)
    columns: list[dict[str, Any]] = read("train.csv", "class", test_split=2, val_split=2).fitted["columns"]
    return columns


def numbers(columns: list[dict[str, Any]], rows: Any) -> list[float]:
    """Return the values of `x` in rows, decoded from the features."""
    if isinstance(rows, str):
        Path("new.csv").write_text(rows, encoding="utf-8")
        rows = "new.csv"
    features = encode_rows(rows, columns[:1], "new.csv")[:, 0]
    return [float(f"{value:.5g}") for value in decode(features, columns[0]).tolist()]


SMALL = np.linspace(1, 3, 201).round(3)


@pytest.mark.parametrize("training", [".", ","])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("x;z\n1,200;0\n1,2;0\n", [1.2, 1.2]),
        ("x;z\n1,200;0\n2,400;0\n", [1.2, 2.4]),
        ("x;z\n1.200;0\n2.400;0\n", [1.2, 2.4]),
        ('x,z\n"1,200",0\n', [1.2]),
        ("x,z\n1.200,0\n2.4,0\n", [1.2, 2.4]),
        ([{"x": "1,200"}, {"x": "1,5"}], [1.2, 1.5]),
        ([{"x": "1.200"}], [1.2]),
        ([{"x": 1.2}, {"x": "2,125"}], [1.2, 2.125]),
        (pd.DataFrame({"x": ["1,200", "2,400"]}), [1.2, 2.4]),
        (pd.DataFrame({"x": [1.2, 2.125]}), [1.2, 2.125]),
    ],
)
def test_the_decimal_sign_is_that_of_the_file(
    training: str, rows: Any, expected: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    columns = learn([f"{value:.3f}".replace(".", training) for value in SMALL], ";" if training == "," else ",")
    capfd.readouterr()
    assert numbers(columns, rows) == expected
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("x;z\n1.200;0\n2.400;0\n", [1200, 2400]),
        ('x,z\n"1,200",0\n', [1200]),
        ([{"x": "1.200"}], [1200]),
        ([{"x": "1'200"}, {"x": "1.200.000"}], [1200, 1200000]),
        ("x;z\n1.200,00;0\n950,5;0\n", [1200, 950.5]),
    ],
)
def test_grouped_digits_are_told_from_decimals_by_the_training_range(rows: Any, expected: list[float]) -> None:
    columns = learn([f"{value:.2f}" for value in np.linspace(100, 9000, 201)])
    assert numbers(columns, rows) == pytest.approx(expected, rel=1e-3)  # far outside the range they are limited


def test_other_columns_determine_an_ambiguous_decimal_sign(capfd: pytest.CaptureFixture[str]) -> None:
    columns = learn(range(0, 5000, 20), y=np.linspace(0, 1, 250).round(2))
    for line, expected in (("1.200;0,5", 1200), ("1,200;0.5", 1200), ("1,200;0,5", 1.2)):
        Path("two.csv").write_text(f"x;y\n{line}\n")
        first = encode_rows("two.csv", columns, "two.csv")[0, 0]
        assert float(decode(first, columns[0])) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize(
    ("separator", "sign", "decimal", "read", "instead"),
    [
        (";", ",", None, "1.002", "1002"),
        (";", ".", None, "1002", "1.002"),
        (",", ",", None, "1002", "1.002"),
        ("\t", ",", None, "1002", "1.002"),
        (",", ".", None, "1.002", None),  # as nearly all files
        (";", ".", ".", "1.002", None),
        (";", ".", ",", "1002", None),
        (";", ",", ".", "1002", None),
        (";", ",", ",", "1.002", None),
    ],
)
def test_ambiguous_thousands_are_reported_and_an_option_decides(
    separator: str, sign: str, decimal: str | None, read: str, instead: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    write_ambiguous(separator, sign)
    data = TableDataModule("train.csv", "class", decimal=decimal)  # type: ignore[arg-type]
    data.setup("fit")
    data.setup("test")
    other = {".": ",", ",": "."}[sign if read == "1.002" else {".": ",", ",": "."}[sign]]
    line = f"columns x, z: 1{sign}002 is read as {read}; if it is {instead}, add --data.decimal '{other}'"
    assert [said for said in capfd.readouterr().err.splitlines() if "read as" in said] == ([line] if instead else [])
    column = data.fitted["columns"][0]
    assert column["range"][0] == pytest.approx(float(read), rel=0.1)


def write_ambiguous(separator: str, sign: str) -> None:
    values = [f"{number // 1000}{sign}{number % 1000:03}" for number in range(1002, 3000, 33)]
    rows = pd.DataFrame({"x": values, "z": values[::-1], "class": np.arange(len(values)) % 2})
    rows.to_csv("train.csv", index=False, sep=separator)


@pytest.mark.slow
def test_the_decimal_sign_is_an_option_of_the_command_line(kindling: Command) -> None:
    write_ambiguous(";", ",")
    options = "--model MLPClassifier --data TableDataModule --data.path train.csv --data.target class".split()
    run = ["fit", *options, "--trainer.max_epochs", 1, "--run_name", "x", "--test_after_fit", "false"]
    assert "columns x, z: 1,002 is read as 1.002; if it is 1002, add --data.decimal '.'" in kindling(*run).err
    for sign, low in ((",", 1.002), (".", 1002)):
        assert kindling(*run, "--data.decimal", sign).code == 0
        (column, _) = load("best").card.columns or []
        assert column["range"][0] == pytest.approx(low, rel=0.1)
    result = kindling("test", "--ckpt_path", "best")
    assert (result.code, "read as" in result.err) == (0, False)


def test_numbers_far_from_the_training_range_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    columns = learn(SMALL)
    numbers(columns, "x,z\n1200,0\n2400,0\n1.5,0\n")
    said = capfd.readouterr().err
    assert "column x of new.csv: values such as 2400 are far from the training range, 1.0" in said


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("training", ["point", "comma"])
def test_iris_with_decimal_commas_is_classified_the_same(kindling: Command, training: str) -> None:
    iris = load_iris(as_frame=True)
    rows = iris.data.assign(kind=iris.target_names[iris.target])
    rows.to_csv("point.csv", index=False)
    rows.to_csv("comma.csv", index=False, sep=";", decimal=",")
    options = "--model MLPClassifier --model.hidden [16] --model.optimizer.lr 0.03 --data TableDataModule".split()
    options += ["--data.path", f"{training}.csv", "--data.target", "kind", "--trainer.max_epochs", "8"]
    assert kindling("fit", *options, "--test_after_fit", "false").code == 0
    point, comma = (load().predict(file) for file in ("point.csv", "comma.csv"))
    assert np.array_equal(point.probabilities, comma.probabilities)
    assert np.mean(rows["kind"] == comma.labels) > 0.8
    path = next(file for file in ("point.csv", "comma.csv") if training not in file)
    result = kindling("test", "--ckpt_path", "best", "--data.path", path)  # and it is the same table
    assert result.code == 0, result.err


RATES = np.linspace(2, 90, 201).round(1)


@pytest.mark.parametrize(
    ("training", "rows", "expected", "line"),
    [
        ("{}%", "x\n12%\n50 %\n", [12, 50], ""),
        ("{}%", "x;z\n12,0 %;0\n50,5%;0\n", [12, 50.5], ""),
        ("{}%", "x\n12\n50\n", [12, 50], "has no %, unlike in training: 12 is read as 12%"),
        ("{}%", "x\n0.12\n0.5\n", [12, 50], "has no %, unlike in training: 0.12 is read as 12%"),
        ("{}%", [{"x": 12.0}], [12], ""),
        ("{}", "x\n12%\n50%\n", [12, 50], "is in %, unlike in training: 12% is read as 12"),
        ("${}", "x\n12\n50\n", [12, 50], "has no $, unlike in training: 12 is read as 12 $"),
        ("${}", "x\nUSD 12\n50 $\n", [12, 50], ""),
        ("{}", "x\n$12\n$50\n", [12, 50], "is in $, unlike in training: $12 is read as 12"),
        ("{} kg", "x\n12\n50\n", [12, 50], "has no kg, unlike in training: 12 is read as 12 kg"),
        ("{} kg", "x\n12kg\n50 Kg\n", [12, 50], ""),
    ],
)
def test_units_in_only_one_of_two_files_are_reported(
    training: str, rows: Any, expected: list[float], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    columns = learn([training.format(rate) for rate in RATES])
    capfd.readouterr()
    assert numbers(columns, rows) == expected
    assert capfd.readouterr().err == (f"column x of new.csv {line}\n" if line else "")


def test_percent_is_read_as_fractions_where_the_training_had_these() -> None:
    columns = learn([f"{rate / 100:.3f}" for rate in RATES])
    assert numbers(columns, "x\n12%\n50%\n") == [0.12, 0.5]


@pytest.mark.parametrize(
    ("training", "rows", "line"),
    [
        ("{} kg", "x\n12000 g\n50000 g\n", "is in g, but was in kg in training: convert it"),
        (
            "{} kg",
            "x\n12000\n50000\n",
            "has no kg, unlike in training, and values such as 12000 are far from the training range",
        ),
        ("${}", "x\n12 €\n50 €\n", "is in €, but was in $ in training: convert it"),
        ("{}%", "x\n7000\n8000\n", "has no %, unlike in training, and values such as 7000 are far"),
    ],
)
def test_other_units_are_refused(training: str, rows: Any, line: str) -> None:
    columns = learn([training.format(rate) for rate in RATES])
    with pytest.raises(ValueError, match=r"column x of new\.csv") as error:
        numbers(columns, rows)
    assert line in str(error.value)
    assert len(str(error.value)) < 300


def test_several_units_in_the_training_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert learn([f"{'$€'[row % 3 > 1]}{row}" for row in range(1, 100)])[0]["units"] == ["$", "€"]
    assert learn([f"{row}{'%' * (row % 3 > 0)}" for row in range(1, 100)])[0]["units"] == ["%"]
    said = capfd.readouterr().err
    assert "column x has several currencies ($, €), which are not converted" in said
    assert "column x: 32 training values have no %, which is assumed" in said
    learn([f"{row} {'kg' if row % 2 else 'g'}" for row in range(1, 100)], y=SMALL[:99])
    assert "left out: x (numbers in several units, such as 1 kg: convert them to one)" in capfd.readouterr().err


DATES = pd.date_range("2023-01-01", periods=200, freq="2D")


@pytest.mark.parametrize(
    "pattern",
    ["%m/%d/%Y %I:%M %p", "%d/%m/%Y", "%d-%b-%Y", "%B %d, %Y", "%Y%m%d", "%Y%m%d%H%M%S", "%d.%m.%y %H:%M", "%Y-%m"],
)
def test_dates_are_recognized_and_read_in_any_other_form(pattern: str) -> None:
    columns = learn([date.strftime(pattern) for date in DATES])
    assert columns[0]["kind"] == "date"
    expected = [(date - pd.Timestamp("2023-06-01")).days + 738671 for date in DATES[::40]]
    if pattern != "%Y-%m":
        assert numbers(learn(DATES), pd.DataFrame({"x": DATES[::40]})) == expected
        for other in (pattern, "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y %H:%M"):
            assert numbers(columns, pd.DataFrame({"x": [date.strftime(other) for date in DATES[::40]]})) == expected


def test_numbers_of_eight_digits_are_no_dates() -> None:
    assert learn([10_000_000 + 73_421 * row for row in range(100)])[0]["kind"] == "number"
    assert learn([f"20{row:02}1399" for row in range(50)] * 2)[0]["kind"] == "number"


def test_ambiguous_dates_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    unclear = [f"{1 + row % 12:02}/{1 + row % 11:02}/2024" for row in range(120)]
    assert not learn(unclear)[0]["day_first"]
    assert "/2024 is read with the month first; write dates as 2024-12-31 to be sure" in capfd.readouterr().err
    other = [f"{1 + row % 28}/{1 + row % 12}/2023" for row in range(120)]
    assert learn(unclear, since=other)[0]["day_first"]
    assert "first" not in capfd.readouterr().err


@pytest.mark.parametrize(("pattern", "first"), [("%y-%m-%d", "year"), ("%d/%m/%y", "day")])
def test_years_of_two_digits_are_told_from_days(pattern: str, first: str, capfd: pytest.CaptureFixture[str]) -> None:
    dates = pd.date_range("2021-01-01", periods=200, freq="3D")
    columns = learn(dates.strftime(pattern))
    assert f"is read with the {first} first; write years with four digits to be sure" in capfd.readouterr().err
    expected = numbers(learn(dates), pd.DataFrame({"x": dates[::40]}))
    for other in (pattern, "%Y-%m-%d", "%m/%d/%Y"):
        assert numbers(columns, pd.DataFrame({"x": dates[::40].strftime(other)})) == expected


NOT_READ = [
    *["{day}|{month}|{row}", "{day}. Mai {row}", "Samstag, {day}. Mai {row}", "{row} km {row} m", "{row}½", "{row}e5"],
    *[">{row}", "<{row}.5", "{row}-{row}0", "~{row}", "{row} 1/2", "{row}x{row}", "PT{row}M", "No. {row}", "٣{row}"],
    '="{row}"',  # as Excel keeps leading zeros
]


@pytest.mark.parametrize("form", NOT_READ)
def test_numbers_and_dates_in_a_form_that_is_not_read_are_named(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [form.format(day=row % 28 + 1, month=row % 12 + 1, row=row) for row in range(1, 151)]
    learn(texts, y=SMALL[:150])
    line = f"left out: x (text such as {texts[0]}: if it is a number or a date, write it as 1234.5 or 2024-12-31 23:59)"
    assert line in capfd.readouterr().err


@pytest.mark.parametrize(
    ("form", "said"), [("{}/7", True), ("0h {}m", True), ("KW {}/2024", True), ("P{}D", True), ("P{}", False)]
)
def test_categories_that_look_like_numbers_are_named(form: str, said: bool, capfd: pytest.CaptureFixture[str]) -> None:
    learn([form.format(row % 30) for row in range(1, 151)], y=SMALL[:150])
    line = f"column x is read as categories, such as {form.format(1)}: if it is a number or a date, write it as 1234.5"
    assert (line in capfd.readouterr().err) == said


def test_categories_that_are_numbers_in_several_units_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    learn([f"{row % 30 + 1} {'GB' if row % 2 else 'MB'}" for row in range(150)], y=SMALL[:150])
    line = "column x is read as categories: numbers in several units, such as 1 MB: convert them to one\n"
    assert line in capfd.readouterr().err


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan", "?", "unknown", "refused", "N/A"])
def test_a_word_among_numbers_is_a_missing_value(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    columns = learn([word if row % 5 == 0 else str(row / 4) for row in range(200)])
    assert (columns[0]["kind"], columns[0]["missing"], columns[0]["missing_values"]) == ("number", True, [word])
    assert f"column x: these values of the training rows are treated as missing: {word} (" in capfd.readouterr().err
    assert encode_rows([{"x": word}, {"x": ""}, {"x": 3}], columns[:1], "rows")[:, 1].tolist() == [1, 1, 0]
    assert capfd.readouterr().err == ""


def test_other_words_for_missing_in_new_rows_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    columns = learn([None if row % 5 == 0 else row / 4 for row in range(200)])
    assert encode_rows([{"x": "NA"}], columns[:1], "rows")[:, 1].tolist() == [1]
    assert "column x of rows: 1 value is treated as missing: NA" in capfd.readouterr().err


def test_na_and_none_are_names_among_names() -> None:
    columns = learn(["NA", "EU", "None", "null", "nan"] * 40)
    assert columns[0]["values"] == ["EU", "NA", "None", "nan", "null"]
    assert not columns[0]["missing"]


def test_a_word_among_few_numbers_is_a_category(capfd: pytest.CaptureFixture[str]) -> None:
    columns = learn([str(row % 9) if row % 7 else "tiny" for row in range(100)])
    assert (columns[0]["kind"], columns[0]["missing"]) == ("category", False)
    said = capfd.readouterr().err
    assert "column x is read as categories: 15 values are not numbers, such as tiny; if they mean missing, " in said
    assert "--data.missing '[\"tiny\"]'" in said


def test_codes_are_no_numbers() -> None:
    for codes in (["1e5", "12e3", "7e1"], ["1_000", "2_000"], ["inf", "-inf", "nan"], ["0x10", "0x1F"]):
        assert learn(codes * 40)[0]["values"] == sorted(codes)


@pytest.mark.parametrize(("wild", "value"), [("1e300", 1e100), ("5e4", 5e4), ("-2E5", -2e5)])
def test_an_exponent_without_a_sign_is_a_number_among_numbers(
    wild: str, value: float, capfd: pytest.CaptureFixture[str]
) -> None:
    columns = learn([*(str(row / 4) for row in range(200)), wild, wild])
    assert (columns[0]["kind"], columns[0]["missing"], columns[0]["missing_values"]) == ("number", False, [])
    capfd.readouterr()
    features = encode_rows([{"x": 3}, {"x": wild}], columns[:1], "rows")
    assert features == pytest.approx(encode_rows([{"x": 3.0}, {"x": value}], columns[:1], "rows"))
    assert "can't be read" not in capfd.readouterr().out


@pytest.mark.slow
def test_the_option_names_what_is_missing_everywhere(kindling: Command) -> None:
    random = np.random.default_rng(0)
    age = pd.Series(random.integers(18, 80, 200)).astype(str).where(random.random(200) > 0.2, "-999")
    plan = pd.Series(random.choice(["NA", "gold", "basic"], 200))
    left = pd.Series(np.where(np.arange(200) % 10 == 0, "NA", np.where(np.arange(200) % 2, "yes", "no")))
    pd.DataFrame({"age": age, "plan": plan, "left": left}).to_csv("customers.csv", index=False)
    options = "--model MLPClassifier --model.hidden [4] --data TableDataModule --data.path customers.csv".split()
    options += ["--data.target", "left", "--trainer.max_epochs", "1", "--data.missing", '["NA", -999]']
    result = kindling("fit", *options, "--test_after_fit", "false")
    assert result.code == 0, result.err
    assert "left out: 20 rows of customers.csv without left" in result.err
    data = read(target="left", missing=("NA", -999))
    assert [column["missing"] for column in data.fitted["columns"]] == [True, True]
    assert data.class_names == ("no", "yes")
    read_table("customers.csv")[:20].drop(columns="left").to_csv("new.csv", index=False)
    result = kindling("predict", "--ckpt_path", "best", "--data.predict", "new.csv")
    assert (result.code, "column" in result.err) == (0, False), result.err
