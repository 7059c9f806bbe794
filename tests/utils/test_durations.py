"""Durations as SLURM writes them."""

import pytest

from benchmark.utils.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (90, 5400),
        ("90", 5400),
        ("2:30", 150),
        ("11:30:00", 41_400),
        ("1-12", 129_600),
        ("1-12:30", 131_400),
        ("1-00:00:01", 86_401),
    ],
)
def test_forms(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "12h", "1:2:3:4", "1-", "00:00:00", "9" * 39, "9" * 50, "1\n2"])
def test_others(text):
    with pytest.raises(ValueError, match="must be"):
        seconds(text)
