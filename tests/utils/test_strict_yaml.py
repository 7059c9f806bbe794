"""The strict subset of YAML."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import UserError
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


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "line 6, column 5: more than 50,000 values, those of aliases included"),
        (LAUGHS.replace("[", "{<<: [").replace("]", "]}").replace("[x, x]", "[{x: 1}]"), "more than 50,000 values"),
        ("a: &a [*a]", "line 1, column 8: the alias .a is within the value that it stands for"),
        ("&a {x: *a}", "the alias .a is within the value that it stands for"),
        ("[" * 100_000, "line 1, column 51: more than 50 levels of nesting"),
        ("{a: " * 100_000, "more than 50 levels of nesting"),
        ("a: " + "9" * 5000, "an integer of more than 100 digits"),
        ("a: !!python/object/apply:os.system ['x']", "the tag .*os.system' is not supported: remove it"),
        ("a: !!str 5", "is not supported"),
        ("1: a", "line 1, column 1: a key must be text: write it in quotes"),
        ("{[a]: b}", "a key must be text"),
        ("a: 1\n'a': 2", "duplicate key 'a'"),
        ("a: 1\n---\nb: 1", "line 2, column 1: but found another document"),
        ("a: \0", "the character U\\+0000, which YAML does not allow"),
        (r'"\ud800"', "an escape of half a character"),
        (r'"\Uffffffff"', "an escape of a character that does not exist"),
        ("*x", "undefined alias 'x'"),
    ],
)
def test_hostile_documents(text, reason):
    with pytest.raises(ValueError, match=reason):
        strict_yaml.load(text)


def test_many_keys_are_read_in_linear_time():
    assert len(strict_yaml.load("\n".join(f"k{i}: 1" for i in range(5_000)))) == 5_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\n" + b"#" * 2**20, "is larger than 1 MiB"),
        (b"\xff", "is not text in UTF-8"),
        (b"- a", "must be a mapping of keys to values, such as `seed: 1`"),
        (b"a: [", "is not valid YAML: line 1, column 5: "),
    ],
)
def test_file(tmp_path, content, message):
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"config .*my\.yaml {message}"):
        strict_yaml.read(tmp_path / "my.yaml", "config", "seed: 1")
    with pytest.raises(UserError, match="is a folder, not a file; give a YAML file"):
        strict_yaml.read(tmp_path, "config", "seed: 1")
    os.mkfifo(tmp_path / "pipe")  # would be waited for
    with pytest.raises(UserError, match="is not a regular file; give a YAML file"):
        strict_yaml.read(tmp_path / "pipe", "config", "seed: 1")


@settings(deadline=None)
@given(PLAIN)
def test_round_trip(value):
    again = strict_yaml.load(strict_yaml.dump({"key": value}))["key"]
    assert json.dumps(again) == json.dumps(value)
