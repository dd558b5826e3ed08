from typing import Any

import pytest

from soak_serving import HOSTILE, find_problems

MINUTE = {"memory_mb": 500.0, "p99_ms": 8.0, "valid": {"200": 100}, "hostile": {"400": 4, "413": 1}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory_mb": 524.0, "p99_ms": 11.9}, None),
        ({"memory_mb": 526.0}, "minute 2: 526 MB after 500 MB"),
        ({"p99_ms": 12.1}, "minute 2: p99 12.1 ms after 8.0 ms"),
        ({"valid": {"200": 99, "503": 1}}, "valid requests {'200': 99, '503': 1}"),
        ({"hostile": {"400": 4, "200": 1}}, "hostile ones {'400': 4, '200': 1}"),
        ({"hostile": {"500": 1}}, "hostile ones {'500': 1}"),
    ],
)
def test_each_requirement_is_checked(change: dict[str, Any], words: str | None) -> None:
    problems = find_problems([{"minute": 1} | MINUTE, {"minute": 2} | MINUTE | change])
    assert len(problems) == (words is not None)
    assert words is None or words in problems[0]


def test_hostile_requests_differ() -> None:
    assert len({*HOSTILE}) == len(HOSTILE) > 10
