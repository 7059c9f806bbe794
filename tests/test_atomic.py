"""Files that are either whole or not there."""

import os
import stat

import pytest

from benchmark.utils.atomic import atomic_path, write_text


def test_the_target_appears_at_the_end_only(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("content")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename within one file system
        assert temporary.suffix == ".txt"  # writers choose the format by it
    assert target.read_text() == "content"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(ValueError, match="full"), atomic_path(target) as temporary:
        temporary.write_text("half of the ne")
        raise ValueError("full")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_reader_sees_the_old_or_the_new_content(tmp_path):
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with target.open() as reader:
        write_text(target, "new")
        assert reader.read() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_an_ordinary_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file.txt", "content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o666 & ~mask


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "file.txt", "Radenović\n")
    assert (tmp_path / "file.txt").read_bytes() == b"Radenovi\xc4\x87\n"
