import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.results.format import milliseconds, percent, quantity
from benchmark.results.rows import Statistic

SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Statistic(0), "0"),
        (Statistic(999), "999"),
        (Statistic(1000), "1.00 k"),
        (Statistic(999_499), "999 k"),
        (Statistic(999_999), "1.00 M"),
        (Statistic(22_000_000, 0.0), "22.0 M"),
        (Statistic(22_000_000, 310_000), "22.0 ± 0.3 M"),
        (Statistic(4_120_000_000), "4.12 G"),
        (None, "-"),
    ],
)
def test_quantity(value, text):
    assert quantity(value) == text


def test_percent():
    assert percent(Statistic(0.7234)) == "72.3"
    assert percent(Statistic(0.7234, 0.0041)) == "72.3 ± 0.4"
    assert percent(Statistic(-0.05)) == "-5.0"
    assert percent(None) == "-"


def test_milliseconds():
    assert [milliseconds(Statistic(value)) for value in (0, 0.0123, 3.1, 31, 310, 3100)] == [
        "0.00",
        "0.012",
        "3.10",
        "31.0",
        "310",
        "3100",
    ]
    assert milliseconds(Statistic(3.1, 0.05)) == "3.10 ± 0.05"


@given(st.integers(1, 10**15 - 10**13))
def test_quantity_keeps_three_digits(value):
    number, _, unit = quantity(Statistic(value)).partition(" ")
    assert float(number) * SCALE[unit] == pytest.approx(value, rel=0.0051)
    assert re.fullmatch(r"\d{1,3}|\d\.\d\d|\d\d\.\d", number)


@given(st.integers(0, 10**14), st.integers(0, 10**14))
def test_quantity_is_monotonic(first, second):
    def read(value):
        number, _, unit = quantity(Statistic(value)).partition(" ")
        return float(number) * SCALE[unit]

    low, high = sorted((first, second))
    assert read(low) <= read(high)


@given(st.floats(0.01, 1e5))
def test_milliseconds_keep_three_digits(value):
    assert float(milliseconds(Statistic(value))) == pytest.approx(value, rel=0.0051, abs=0.00051)
