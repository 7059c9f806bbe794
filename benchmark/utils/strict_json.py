"""A strict reader of JSON files: bounded, without duplicate keys, and without values that JSON does not have."""

import json
import math
import re
import reprlib
from pathlib import Path
from typing import Any, Final, NoReturn

from benchmark.utils.escape import is_plain_line, terminal
from benchmark.utils.paths import read_regular

MAX_BYTES: Final = 16 * 2**20
"""Largest size of a file: a record with the scores of 1.7 million queries."""
_MAX_KEYS: Final = 20_000
"""Largest number of keys, and of lists and objects, of a file; a record has about 300."""
_MAX_DIGITS: Final = 18
"""Largest number of digits of an integer: all of these fit into 64 bits."""
_MAX_DEPTH: Final = 16
_MAX_KEY: Final = 200
_MAX_TEXT: Final = 4096
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SURROGATE = re.compile(rb"\\u[dD][89abAB]")


def read(path: Path) -> Any:
    """Read the JSON file at `path`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file, is too large, or is not JSON; the message has no path.
    """
    return loads(read_regular(path, MAX_BYTES))


def loads(content: bytes) -> Any:
    """Parse JSON in UTF-8.

    Raises:
        ValueError: It is not JSON, has a key twice, a number that is not finite or has too many digits, half of a
            character, too many keys, or is nested too deeply.
    """
    if content.count(b"[") + content.count(b"{") > _MAX_KEYS:
        raise ValueError(f"more than {_MAX_KEYS:,} lists and objects")
    keys = 0

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs)
        if keys > _MAX_KEYS:
            raise ValueError(f"more than {_MAX_KEYS:,} keys")
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {shown(key)} appears twice")
            result[key] = value
        return result

    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start:,}") from None
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=_refuse_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at line {error.lineno:,}, column {error.colno:,}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _SURROGATE.search(content):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # a lone surrogate, which no file can hold and no terminal can show
            raise ValueError("a text has half of a character") from None
    return value


def check_plain(value: Any) -> Any:
    """Return plain values unchanged if they fit into a record.

    Raises:
        ValueError: A text has line breaks or control characters, a number is not finite or has too many digits, or
            there are too many values or levels of nesting. The message begins with the keys that lead to the value.
    """
    problem = _Plain().problem(value, 0)
    if problem is not None:
        keys, message = problem
        raise ValueError(f"{'.'.join(map(str, keys))}: {message}" if keys else message)
    return value


class _Plain:
    """Counts values while it checks them."""

    def __init__(self) -> None:
        self.count = 0

    def problem(self, value: Any, depth: int) -> tuple[tuple[Any, ...], str] | None:
        """Return the keys that lead to the first wrong value, and what is wrong with it; None if nothing is."""
        self.count += 1
        if self.count > _MAX_KEYS:
            return (), f"more than {_MAX_KEYS:,} values"
        if isinstance(value, str):
            if len(value) > _MAX_TEXT or not is_plain_line(value):
                return (), f"must be one line of text without control characters, not {shown(value)}"
        elif isinstance(value, float):
            if not math.isfinite(value):
                return (), f"must be a finite number, not {value}"
        elif isinstance(value, int):  # also true and false
            if abs(value) >= 10**_MAX_DIGITS:
                return (), f"must have at most {_MAX_DIGITS} digits"
        elif isinstance(value, dict | list | tuple):
            return self._problem_within(value, depth)
        elif value is not None:
            return (), f"must be a plain value, not of the type {type(value).__name__}"
        return None

    def _problem_within(self, values: Any, depth: int) -> tuple[tuple[Any, ...], str] | None:
        if depth >= _MAX_DEPTH:
            return (), "nested too deeply"
        is_mapping = isinstance(values, dict)
        for key, entry in values.items() if is_mapping else enumerate(values):
            if is_mapping and (not isinstance(key, str) or len(key) > _MAX_KEY or not is_plain_line(key)):
                return (), f"the key {shown(key)} must be one short line without control characters"
            if (problem := self.problem(entry, depth + 1)) is not None:
                keys, message = problem
                return (key, *keys), message
        return None


def shown(value: object) -> str:
    """Return a value as one short line for a message, in the notation of Python."""
    return terminal(_SHORT.repr(value))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; at most {_MAX_DIGITS} are possible")
    return int(digits)
