"""Paths that users give."""

from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.utils.paths import user_path


def test_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_path("~/data") == Path("/home/ada/data")
    assert user_path("data/~") == Path("data/~")


@pytest.mark.parametrize("text", ["~nobody-of-this-name/data", "a\0b"])
def test_impossible_paths(text):
    with pytest.raises(UserError, match=r"give a path without ~|must not contain a null character"):
        user_path(text)
