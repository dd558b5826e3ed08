"""Reading of ISO dates in an ONNX file."""

import numpy as np

from kindling.data.tables.dates import DAY
from kindling.deploy.onnx_graph import OnnxGraph, Operand

CLOCK = r":[0-5]\d(?::(?:[0-5]\d|60)(?:\.\d{1,9})?)?"  # minutes, seconds and fractions
TIME = rf"(?:[01]\d|2[0-3]){CLOCK}|24:00(?::00(?:\.0+)?)?"
DURATION = rf"\d{{1,3}}{CLOCK}"  # 36:00 is one and a half days
MONTH = r"\d{4}-(?:0[1-9]|1[0-2])"
DATE = rf"{MONTH}-\d\d(?:[T ](?:{TIME})(?:Z|[+-]\d\d(?::?\d\d)?)?)?"
MONTH_STARTS = np.cumsum([0, 0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])  # days; from index 1 for January


def add_days(graph: OnnxGraph, texts: str) -> str:
    """Return the days from the year 1 to dates (...), or from midnight to times; float64, NaN where there is neither.

    They are written as 2024-12-31, 2024-12-31T23:59:59.5 with or without a time zone, which is ignored as in
    `kindling.data.tables.dates`, 2024-12, or 23:59.
    """
    is_month, is_time = (graph.add("RegexFullMatch", texts, pattern=pattern) for pattern in (MONTH, DURATION))
    dates = graph.add("Where", is_month, graph.join(texts, graph.constant("-01")), texts)
    is_date = graph.add("RegexFullMatch", dates, pattern=DATE)
    times = graph.join(graph.constant("0001-01-01T"), texts)
    dates = graph.add("Where", is_date, dates, graph.constant("0001-01-01"))
    moments = graph.add("Where", is_time, times, dates)
    # A T or a blank separates date and time, or there is no time: 2024-12-31T0:0.
    parts = graph.split(graph.join(moments, graph.constant(" 0:0")))
    parts = graph.split(
        graph.join(graph.join(graph.pick(parts, 0), graph.constant("T")), graph.pick(parts, 1)), delimiter="T"
    )
    days, exists = _add_date(graph, graph.pick(parts, 0))
    microseconds = graph.add("Add", graph.add("Mul", days, DAY), _add_clock(graph, graph.pick(parts, 1)))
    known = graph.add("And", graph.add("Or", is_date, is_time), exists)
    return graph.add("Where", known, graph.add("Div", graph.cast(microseconds, "DOUBLE"), float(DAY)), np.nan)


def _add_date(graph: OnnxGraph, dates: str) -> tuple[str, str]:
    """Return the days from the year 1, int64, and whether there is such a day."""
    parts = graph.cast(graph.split(dates, delimiter="-"), "INT64")
    year, month, day = (graph.pick(parts, position) for position in range(3))
    before = _days_of_years(graph, graph.add("Sub", year, 1))
    is_leap = graph.add("Equal", graph.add("Sub", _days_of_years(graph, year), before), 366)
    starts = np.concatenate([MONTH_STARTS, MONTH_STARTS + (np.arange(len(MONTH_STARTS)) > 2)])
    index = graph.add("Add", month, graph.add("Mul", graph.cast(is_leap, "INT64"), len(MONTH_STARTS)))
    start, end = (graph.add("Gather", starts, each) for each in (index, graph.add("Add", index, 1)))
    of_year = graph.add("Add", start, day)  # from 1
    exists = graph.add("And", graph.add("Greater", day, 0), graph.add("LessOrEqual", of_year, end))
    exists = graph.add("And", exists, graph.add("Greater", year, 0))
    return graph.add("Sub", graph.add("Add", before, of_year), 1), exists


def _days_of_years(graph: OnnxGraph, years: str) -> str:
    """Return the number of days of the first years of the calendar."""
    days = graph.add("Mul", years, 365)
    for operator, period in (("Add", 4), ("Sub", 100), ("Add", 400)):
        days = graph.add(operator, days, graph.add("Div", years, period))
    return days


def _add_clock(graph: OnnxGraph, times: str) -> str:
    """Return the microseconds since midnight, int64."""
    for zone in "Z+-":
        times = graph.pick(graph.split(times, delimiter=zone), 0)
    parts = graph.split(graph.join(times, graph.constant(":0")), delimiter=":")  # 23:59 has no seconds: 23:59:0
    total: Operand = 0.0
    for position, seconds in enumerate((3600, 60, 1)):
        number = graph.cast(graph.pick(parts, position), "DOUBLE")
        total = graph.add("Add", total, graph.add("Mul", number, seconds * 1e6))
    return graph.cast(graph.add("Round", total), "INT64")
