import shlex

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Command
from kindling.data.tables.files import read_table
from kindling.data.tables.rows import encode_rows
from rows import FIT, decode, one_column, read

pytestmark = pytest.mark.usefixtures("console_logs")


def test_features_are_those_computed_by_hand(table: pd.DataFrame) -> None:
    data = read()
    rows = table[data.splits == "train"]
    plans = pd.get_dummies(rows["plan"])[["basic", "gold", "team"]]

    def scaled(name: str) -> "pd.Series[float]":
        known = rows[name].dropna().sort_values()
        low, high = known.iloc[len(known) // 20], known.iloc[-1 - len(known) // 20]
        ratio = (rows[name].fillna(known.median()) - known.median()) / max(high - known.median(), known.median() - low)
        return ratio / np.sqrt(1 + ratio**2 / 25)

    expected = np.column_stack(
        [
            scaled("age"),
            rows["age"].isna(),
            scaled("spent"),
            plans,
            rows["plan"].isna(),
            scaled("visits"),
            rows["member"].map({"no": -1, "yes": 1}),
            rows["abroad"].map({False: -1, True: 1}),
        ]
    ).astype(np.float32)
    assert data.train.inputs.numpy() == pytest.approx(expected, abs=1e-6)
    assert data.train.inputs.dtype == torch.float32
    assert data.input_shape == expected.shape[1:]
    assert data.mean == pytest.approx(expected.mean(0), rel=1e-4, abs=1e-6)
    assert data.class_names == ("no", "yes")
    assert data.train.labels.tolist() == (rows["churned"] == "yes").astype(int).tolist()


def test_encodings_are_learned_from_training_rows_only(table: pd.DataFrame) -> None:
    first = read()
    held_out = first.splits != "train"
    table.loc[held_out, ["age", "spent"]] = 1e6
    table.loc[held_out, "plan"] = "new"
    table.to_csv("customers.csv", index=False)
    second = read()
    assert second.splits.tolist() == first.splits.tolist()
    assert second.fitted | {"digest": ""} == first.fitted | {"digest": ""}
    assert (second.mean, second.std) == (first.mean, first.std)


def test_numbers_among_a_few_other_values_are_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    values: list[object] = [value % 40 + 0.5 for value in range(100)]
    values[3:9] = ["?", "n/a", "-", "", " NULL ", "inf"]
    learned, features = one_column([*values, 500.0, -3])
    known = [value for value in values if isinstance(value, float)]
    assert learned == {
        "name": "value",
        "kind": "number",
        "decimal": ".",
        "units": [],
        "missing_values": ["-", "?", "NULL", "n/a"],
        "range": [0.5, 39.5],
        "median": np.median(known),
        "center": np.median(known),
        "scale": max(np.median(known) - 2.5, 37.5 - np.median(known)),
        "limit": 5.0,
        "missing": True,
    }
    said = capfd.readouterr().err
    assert (
        "column value: these values of the training rows are treated as missing: ? (1), n/a (1), - (1), NULL (1)"
        in said
    )
    assert "column value of one.csv: 1 of 97 values can't be read as a number, such as inf; treated as missing" in said
    assert features[:, 1].nonzero().squeeze(1).tolist() == [3, 4, 5, 6, 7, 8]
    expected = [np.median(known)] * 6 + [500, -3]
    assert decode(features[[*range(3, 9), -2, -1], 0], learned) == pytest.approx(expected, rel=1e-4)

    values[20] = "about 7"
    learned, features = one_column([*values, "lots", 1])
    assert (learned["kind"], features[20, 1].item()) == ("number", 1)
    assert (
        "column value of one.csv: 3 of 97 values can't be read as a number, such as inf; treated"
        in capfd.readouterr().err
    )


def test_categories_unseen_in_training_are_zero() -> None:
    learned, features = one_column(["b", "a", "c"] * 10 + ["", " a", "d"])
    assert learned.pop("missing_values") == []
    assert learned == {"name": "value", "kind": "category", "values": ["a", "b", "c"], "missing": True}
    assert features[-5:].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("two", [("no", "yes"), ("false", "true"), ("False", "True"), ("FALSE", "TRUE"), ("f", "m")])
def test_two_categories_are_one_feature(two: tuple[str, str]) -> None:
    learned, features = one_column([*two, two[1]] * 6 + [two[0], "neither"])
    assert len(learned["values"]) == 2
    assert features.tolist() == [[-1], [1], [1]] * 6 + [[-1], [0]]


def test_small_differences_of_large_numbers_reach_the_model() -> None:
    values = [1_700_000_000 + row % 5 for row in range(100)]
    learned, features = one_column([*values, *values[:2]])
    assert decode(features[:, 0], learned) - values[0] == pytest.approx(
        [row % 5 for row in [*range(100), 0, 1]], abs=1e-4
    )


def test_huge_numbers_stay_finite() -> None:
    huge = [1e30, -1e38, 1e39, 1e300, -1.7e308]
    for values in ([*range(40), *range(40), *huge, 3, 4], [*range(40), *range(40), 1e308, -1e308]):
        features = one_column(values)[1]
        assert features.abs().max() <= 5
        assert features.isfinite().all()


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (["1.234,50", "0,5", "12", "1.234"], [1234.5, 0.5, 12, 1234]),
        (["1,234.50", "0.5", "12", "1,234"], [1234.5, 0.5, 12, 1234]),
        (["1,234,567", "999", "1,000", "0"], [1234567, 999, 1000, 0]),
        (["$1,200", "-$5", "€ 3.5", "7 £"], [1200, -5, 3.5, 7]),
        (["12%", "3.5 %", "-1%", "100%"], [12, 3.5, -1, 100]),
        (["1 234,5", "2'000'000", "1\N{NO-BREAK SPACE}000", ".5e1"], [1234.5, 2e6, 1000, 5]),
    ],
)
def test_numbers_are_read_in_common_formats(values: list[str], numbers: list[float]) -> None:
    learned, features = one_column([*values * 10, *values[-2:]])
    assert learned["kind"] == "number"
    read = decode(features[:, 0], learned)
    assert read == pytest.approx([*numbers * 10, *numbers[-2:]], abs=1e-5 * learned["scale"])


def test_an_ambiguous_column_is_read_like_the_others(table: pd.DataFrame) -> None:
    table["people"] = [f"{number}.{number * 7 % 900 + 100}" if number % 2 else f"{number * 4}" for number in range(200)]
    for separator, decimal, third in ((";", ",", 3121), (",", ".", 3.121)):
        table.to_csv("customers.csv", index=False, sep=separator, decimal=decimal)
        learned, data = {column["name"]: column for column in read().fitted["columns"]}["people"], read()
        row = int(np.searchsorted(np.flatnonzero(data.splits != "left out"), 3))
        value = float(decode(data.rows[0][row, -1], learned))
        assert value == pytest.approx(third, rel=1e-3)


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        (["2024-03-01", "2024-02-28", "2023-12-31", "2024-03-02"], [2, 0, -59, 3]),
        (["01.03.2024", "28.02.2024", "31.12.2023", "2.3.2024"], [2, 0, -59, 3]),
        (["3/1/2024", "2/28/2024", "12/31/2023", "03/02/2024"], [2, 0, -59, 3]),
        (["1/3/2024", "28/2/2024", "31/12/2023", "02/03/2024"], [2, 0, -59, 3]),
        (["2024-03-01T12:00:00Z", "2024-02-28 00:00", "2023-12-31", "2.3.2024 6:00"], [2.5, 0, -59, 3.25]),
        (["2024-03-01 12:00:00.000+01:00", "2/28/2024 18:00", "", "2024/3/2"], [2.5, 0.75, 2.5, 3]),
    ],
)
def test_dates_become_days(dates: list[str], days: list[float]) -> None:
    learned, features = one_column([*dates * 10, *dates[:2]])
    assert learned["kind"] == "date"
    read = decode(features[:, 0], learned) - 738943  # since 28 February 2024
    assert read == pytest.approx([*days * 10, *days[:2]], abs=1e-3)


def test_values_that_only_resemble_numbers_or_dates_are_categories() -> None:
    for values in (["1.2.3", "10.0.0.1"], ["2024-13-01", "30/2/2024"], ["12:30", "€"], ["1_a", "12,34,56"]):
        assert one_column([*values, "x"] * 12)[0]["kind"] == "category"


def test_codes_of_which_most_are_numbers_are_codes() -> None:
    codes = ["007", "12", "3", "4", "5", "6", "8", "9", "10", "A1"]
    learned = one_column([*codes * 6, "007", "12"])[0]
    assert (learned["kind"], learned["values"]) == ("category", sorted(codes))


def test_uninformative_columns_are_left_out(table: pd.DataFrame, capfd: pytest.CaptureFixture[str]) -> None:
    table["row"] = np.arange(200)[::-1] + 1  # no name of an id, but consecutive numbers
    table["nothing"] = None
    table.to_csv("customers.csv", index=False)
    data = read(drop=("spent", "visits"))
    kept = [column["name"] for column in data.fitted["columns"]]
    assert kept == ["age", "plan", "member", "abroad"]
    assert capfd.readouterr().err.splitlines() == [
        "left out: customer_id, row (looks like an ID column)",
        "left out: name (free text, names or IDs)",
        "left out: country, nothing (constant)",
    ]


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        *dict.fromkeys(["id", "userid", "userId", "CUSTOMERID", "customer-id", "Session_UID", "guid"], True).items(),
        *dict.fromkeys(["EmployeeNumber", "order no", "OrderNo", "KundenNr", "case_nr"], True).items(),
        *dict.fromkeys(["paid", "PAID", "valid", "casino", "identity", "numbers"], False).items(),
    ],
)
def test_an_id_is_known_by_its_name_and_values(table: pd.DataFrame, name: str, is_id: bool) -> None:
    numbers = np.random.default_rng(0).permutation(5000)[:200] * 3
    numbers[:4] = numbers[4:8]  # some are there twice
    table.assign(**{name: numbers}).to_csv("customers.csv", index=False)
    assert (name in read().fitted["left_out"]) == is_id
    # Numbers that come again and again are no ids, whatever they are called; nor are measures.
    for values in (numbers % 50 * 100, numbers + 0.5):
        table.assign(**{name: values}).to_csv("customers.csv", index=False)
        assert name not in read().fitted["left_out"]


@pytest.mark.slow
def test_a_warning_names_a_column_that_leaks_the_class(
    kindling: Command, table: pd.DataFrame, capfd: pytest.CaptureFixture[str]
) -> None:
    leaves = (table["churned"] == "yes").to_numpy()
    table['it\'s, "left"'] = np.where(leaves, "P", "n")
    table.loc[table.index[leaves][::2], 'it\'s, "left"'] = "p"
    table["code"] = (leaves + 3.0).round()
    table.loc[5, "code"] = None
    table["hint"] = np.where(np.arange(200) % 10 == 0, ~leaves, leaves)  # right in nine rows of ten
    table.to_csv("customers.csv", index=False)
    read(drop=("age",))
    advice = capfd.readouterr().err.splitlines()[-1]
    assert advice.startswith(
        'possible target leakage: it\'s, "left", code each determine the class; to leave them out, --data.'
    )
    option, names = shlex.split(advice[advice.index("--data") :])
    result = kindling(*FIT, option, names)
    assert (result.code, "leakage" in result.err) == (0, False), result.err


def test_a_row_has_the_same_features_in_every_container(table: pd.DataFrame) -> None:
    table["since"] = [f"{row % 28 + 1}.{row % 12 + 1}.2024" for row in range(200)]
    table["level"] = np.where(np.arange(200) % 3 == 0, "A", np.char.mod("%d", np.arange(200) % 4))
    table.to_csv("customers.csv", index=False)
    columns = read().fitted["columns"]
    rows = table.iloc[[0, 3, 9, 30]]
    rows.to_csv("new.csv", index=False)
    from_file = encode_rows(read_table("new.csv"), columns, "new.csv")
    assert np.array_equal(from_file, read().rows[0][rows.index].numpy())
    assert np.array_equal(from_file, encode_rows(rows, columns, "rows"))
    assert np.array_equal(from_file, encode_rows(rows.astype(object), columns, "rows"))
    assert np.array_equal(from_file, encode_rows(pd.DataFrame(rows.to_dict("records")), columns, "rows"))
    for number, (_, row) in enumerate(rows.iterrows()):
        for one in (row.to_dict(), {name: str(value) for name, value in row.items()}):
            assert np.array_equal(from_file[[number]], encode_rows(pd.DataFrame([one]), columns, "a row"))


def test_the_other_rows_of_a_file_change_nothing(table: pd.DataFrame) -> None:
    codes = np.random.default_rng(0).choice(["007", "7", "A1"], 200)
    table.assign(code=codes).to_csv("customers.csv", index=False)
    data = read()
    chosen = np.flatnonzero(codes == "007")[:3]
    table.assign(code=codes).iloc[chosen].to_csv("few.csv", index=False)
    few = read(predict="few.csv").load_predict().inputs
    assert torch.equal(few, data.rows[0][chosen])
