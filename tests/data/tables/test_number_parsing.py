"""Parsing of numbers."""

import math

import numpy as np
import pytest

from kindling.data.tables.number_parsing import as_number, decimal_evidence, read_quantities, read_quantity


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("(716.45)", -716.45, ""),
        ("($1,200)", -1200, "$"),
        ("$(1,200.50)", -1200.5, "$"),
        ("(5 %)", -5, "%"),
        ("\N{MINUS SIGN}5", -5, ""),
        ("\N{EN DASH}3,5", -3.5, ""),
        ("-$5", -5, "$"),
        ("$-5", -5, "$"),
        ("716.45-", -716.45, ""),  # as SAP exports it
        ("+4", 4, ""),
        ("1\N{NARROW NO-BREAK SPACE}234,50 €", 1234.5, "€"),
        ("1\N{THIN SPACE}000\N{THIN SPACE}000", 1e6, ""),
        ("1\N{RIGHT SINGLE QUOTATION MARK}234.5", 1234.5, ""),
        ("12,34,567", 1234567, ""),  # India
        ("1.200,-", 1.2, ""),
        ("CHF 1'200.50", 1200.5, "chf"),
        ("USD 5", 5, "$"),
        ("5,00 EUR", 5, "€"),
        ("R$ 5", 5, "r$"),
        ("Rs. 500", 500, "₹"),
        ("12 kg", 12, "kg"),
        ("3.5cm", 3.5, "cm"),
        ("98°F", 98, "°f"),
        ("5 µg/m³", 5, "µg/m³"),
        ("3 days", 3, "day"),
        ("1 Day", 1, "day"),
        ("12 percent", 12, "%"),
        ("22nd", 22, ""),
        ("1.5e-05", 1.5e-5, ""),
        ("1E+10", 1e10, ""),
        ("2.5E4", 25000, ""),
        (".5e1", 5, ""),
    ],
)
def test_numbers_are_read_with_their_units(text: str, number: float, unit: str) -> None:
    value, found = read_quantity(text)
    assert value == pytest.approx(number)
    assert found == unit


NO_NUMBERS = (
    "1_000;inf;-Infinity;nan;1e5;12e3;0x10;1e+999;\N{ARABIC-INDIC DIGIT THREE};1+2j;;.;-;--5;+-5;5-10;12:30;1/2;1.2.3;"
    "10.0.0.1;5'11\";about 7;2 PM;A1;1,23,45;12.345,67.8"
)


@pytest.mark.parametrize("text", [*NO_NUMBERS.split(";"), "9" * 100])
def test_texts_are_no_numbers(text: str) -> None:
    assert math.isnan(as_number(text))
    assert math.isnan(as_number(text, ","))


@pytest.mark.parametrize(
    ("sign", "texts"),
    [
        (",", "1,5;0,125;1234,567;1.234.567;1.234,5;$1,5"),
        (".", "1.5;0.125;1,234,567;(1,234.5);12,34,567;1.5e-05"),
        ("?", "1,234;12.345 kg;-1.000"),
        (None, "12;1'000;a,b;"),
    ],
)
def test_the_decimal_sign_is_detected(sign: str | None, texts: str) -> None:
    assert {*map(decimal_evidence, texts.split(";"))} == {sign}


@pytest.mark.parametrize("decimal", [".", ","])
def test_many_plain_numbers_are_read_as_one_by_one(decimal: str) -> None:
    texts = [text.replace(".", decimal) for text in ("1.25", "-3", "007", "0.1", "123456789.125", "12.5")]
    numbers, units = read_quantities(texts, decimal)
    assert numbers.tolist() == [as_number(text, decimal) for text in texts]
    assert numbers.tolist() == [1.25, -3, 7, 0.1, 123456789.125, 12.5]
    assert not any(units)
    mixed = read_quantities([*texts, "1\n2", 1.234, True, None], decimal)[0]
    assert mixed[:-4].tolist() == numbers.tolist()
    assert [*map(math.isnan, mixed[-4:])] == [True, False, True, True]
    assert mixed[-3] == 1.234  # what came as a number is not read anew


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize(
    ("before", "after"), [("$", ""), ("", " kg"), ("EUR ", ""), ("", "%"), ("", ""), ("$", ".-"), ("", "m2")]
)
def test_many_numbers_of_one_unit_are_read_as_one_by_one(before: str, after: str, decimal: str) -> None:
    group = "," if decimal == "." else "."
    bodies = [f"1{group}234{decimal}5", f"12{group}345{group}678", "7", f"0{decimal}25", f"999{group}000", "0042"]
    texts = [f"{sign}{before}{body}{after}" for body in bodies for sign in ("", "-")]
    for values in (texts, [*texts, f"5{decimal}1{group}2"], [*texts, "n/a"], [*texts, f"{before}(5){after}"]):
        numbers, units = read_quantities(values, decimal)
        one_by_one = [read_quantity(text, decimal) for text in values]
        np.testing.assert_array_equal(numbers, [number for number, _ in one_by_one])
        assert units.tolist() == [unit for _, unit in one_by_one]


def test_a_line_break_in_a_value_is_no_second_value() -> None:
    numbers, _ = read_quantities(["$5", "$1\n$2", "$7"], ".")
    assert [*map(math.isnan, numbers)] == [False, True, False]
