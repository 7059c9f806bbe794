import pytest

from benchmark.utils import strict_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"a": 1, "a": 2}}', "the key 'a' appears twice"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b"[-Infinity]", "-Infinity is not a number of JSON"),
        (b"1" + b"0" * 400, "a number of 401 digits; at most 18 are possible"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'"\\ud800"', "half of a character"),
        (b"[" * 15_000 + b"]" * 15_000, "nested too deeply"),
        (b"[" + b"[]," * 30_000 + b"[]]", "more than 20,000 lists and objects"),
        (b"{" + b",".join(b'"%d":0' % key for key in range(30_000)) + b"}", "more than 20,000 keys"),
        (b'{"a": 1,}', "not JSON at line 1, column 9"),
        (b"", "not JSON at line 1, column 1"),
    ],
)
def test_refuses_what_is_not_plain_json(content, message):
    with pytest.raises(ValueError, match=message):
        strict_json.loads(content)


def test_reads_what_is():
    assert strict_json.loads(b'{"a": [1, -2.5e3, null, true, "\\ud83d\\ude00 \\\\ud800"]}') == {
        "a": [1, -2500.0, None, True, "\U0001f600 \\ud800"]
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": ["x", "\x1b"]}}, r"a\.b\.1: must be one line of text without control characters, not '\\x1b'"),
        ({"a\n": 1}, r"the key 'a\\n' must be one short line"),
        ({"a": float("inf")}, "a: must be a finite number"),
        ({"a": 10**18}, "a: must have at most 18 digits"),
        ({"a": "x" * 5000}, "a: must be one line of text"),
        ({"a": {1, 2}}, "a: must be a plain value, not of the type set"),
    ],
)
def test_check_plain_names_the_value(value, message):
    with pytest.raises(ValueError, match=message):
        strict_json.check_plain(value)


def test_refuses_files_that_are_not_regular(tmp_path):
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match=r"not a regular file|a folder, not a file"):
            strict_json.read(type(tmp_path)(path))
