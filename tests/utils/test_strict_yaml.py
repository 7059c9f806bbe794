"""The strict subset of YAML."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.utils import strict_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, 1e-3) for text in ("1e-3", "1E-3", "0.001", ".001", "1.0e-3")],
        *[(text, 1) for text in ("1", "+1")],
        *[(text, text) for text in ("no", "on", "010", "1:30", "0x10", "1_000", "2020-01-01", "=", "1e", "e3")],
        *[(text, None) for text in ("", "null", "~")],
        ("'1e-3'", "1e-3"),
        ("true", True),
    ],
)
def test_scalars(text, value):
    loaded = strict_yaml.load(text)
    assert loaded == value
    assert type(loaded) is type(value)


def test_anchors_and_merge_keys():
    assert strict_yaml.load("{a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}")["b"] == {"x": 1, "y": 3}


@settings(deadline=None)
@given(PLAIN)
def test_round_trip(value):
    again = strict_yaml.load(strict_yaml.dump({"key": value}))["key"]
    assert json.dumps(again) == json.dumps(value)
