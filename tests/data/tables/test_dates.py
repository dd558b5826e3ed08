"""Parsing of dates and times."""

import math
from datetime import datetime, timedelta

import numpy as np
import pytest

from kindling.data.tables.dates import as_days, field_order, read_days

MOMENT = datetime(2024, 3, 14, 14, 15)
FORMATS = [
    *("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y/%m/%d %I:%M %p", "%Y%m%dT%H%M%S"),
    *("%m/%d/%Y %I:%M %p", "%m/%d/%Y %H:%M:%S", "%m/%d/%y %H:%M", "%m-%d-%Y %I:%M%p", "%H:%M %m/%d/%Y"),
    *("%d.%m.%Y %H:%M", "%d.%m.%y, %H:%M", "%d-%b-%Y %H:%M", "%d %B %Y %I:%M %p", "%d/%b/%Y:%H:%M:%S +0000"),
    *("%B %d, %Y %I:%M:%S %p", "%b %d %Y %H:%M", "%A, %d %B %Y, %H:%M", "%a, %d %b %Y %H:%M:%S GMT"),
    *("%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S UTC %Y", "%d%b%Y %H:%M:%S", "%Y-%b-%d %H:%M", "%Y:%m:%d %H:%M:%S"),
    *("%Y-%m-%d %H:%M:%S+01:00", "%Y-%m-%d %H:%M:%S -0500", "%B %dth, %Y at %I:%M %p"),
    *("%G-W%V-%u %H:%M", "%GW%V%uT%H:%M", "%Y-%m-%d %Hh%M"),
]


@pytest.mark.parametrize("pattern", FORMATS)
def test_moments_are_read(pattern: str) -> None:
    text = MOMENT.strftime(pattern)
    assert as_days(text, day_first=False) == (MOMENT - datetime.min) / timedelta(days=1)
    assert as_days(text.lower(), day_first=False) == as_days(text.upper(), day_first=False) > 0


@pytest.mark.parametrize(
    ("text", "year", "month", "day"),
    [
        *(("2024-03", 2024, 3, 1), ("03/2024", 2024, 3, 1), ("March 2024", 2024, 3, 1), ("Mar-24", 2024, 3, 1)),
        *(("2024-Q3", 2024, 7, 1), ("Q1 2024", 2024, 1, 1), ("20240314", 2024, 3, 14), ("14. 3. 2024", 2024, 3, 14)),
        *(
            ("2024年3月14日", 2024, 3, 14),
            ("14-Mar-98", 1998, 3, 14),
            ("1 Sept. 2024", 2024, 9, 1),
            ("May 3rd, 2024", 2024, 5, 3),
            ("2024-W01", 2024, 1, 1),
            ("2020w53", 2020, 12, 28),
        ),
    ],
)
def test_days_months_and_quarters_are_read(text: str, year: int, month: int, day: int) -> None:
    assert as_days(text, day_first=False) == (datetime(year, month, day) - datetime.min).days


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("14:15", 14.25),
        ("2:15 PM", 14.25),
        ("12:00 am", 0),
        ("12 p.m.", 12),
        ("0:00:36", 0.01),
        ("125:30", 125.5),
        ("14h15", 14.25),
    ],
)
def test_times_and_durations_are_read(text: str, hours: float) -> None:
    assert as_days(text, day_first=False) == pytest.approx(hours / 24, abs=1e-12)


NO_DATES = "2024-13-01;30/2/2024;1.2.3;10.0.0.1;2024-03-14 25:00;13:00 PM;14 Foo 2024;12-34;;14:75;20241301;2021-W53"


PHONE_NUMBERS = ["710763078282", "202403011560", "20240301126099"]  # like a day and a time without separators


@pytest.mark.parametrize("text", [*NO_DATES.split(";"), *PHONE_NUMBERS, "2024-03-14" * 10])
def test_texts_are_no_dates(text: str) -> None:
    assert math.isnan(as_days(text, day_first=False))


def test_the_order_of_day_and_month_is_detected() -> None:
    assert as_days("03/04/2024", day_first=True) - as_days("03/04/2024", day_first=False) == 30
    texts = ["14/03/2024 9:00", "03/14/24", "03-04-2024", "03/03/2024", "2024-03-14", "14.03.2024", "40/50/2024", "x"]
    assert [*map(field_order, texts)] == ["day", "month", "?", "=", None, None, None, None]


@pytest.mark.parametrize("day_first", [True, False])
@pytest.mark.parametrize("separator", "/-")
def test_many_dates_with_a_clock_are_read_as_one_by_one(separator: str, day_first: bool) -> None:
    random = np.random.default_rng(0)
    texts = []
    for _ in range(500):
        first, second, hour, minute = (int(random.integers(0, most)) for most in (33, 14, 26, 60))
        clock = random.choice(["", " {}:{:02}", " {}:{:02}:59", " {}:{:02} PM", " {}:{:02}:00am"]).format(hour, minute)
        texts.append(f"{first}{separator}{second:02}{separator}{random.choice(['2024', '2023', '0000'])}{clock}")
    expected = [as_days(text, day_first) for text in texts]
    assert 0.05 < np.mean(np.isnan(expected)) < 0.95
    np.testing.assert_array_equal(read_days(texts, day_first), expected)


def test_many_dates_are_read_as_one_by_one() -> None:
    texts = ["2024-03-14", "1999-12-31 23:59:59", "2024-02-29T12:00", "2024-03-14 14:15:16.123457"]
    assert read_days(texts, False).tolist() == [as_days(text, False) for text in texts]
    assert [*map(math.isnan, read_days([*texts, "2024-02-30"], False))] == [False] * 4 + [True]
