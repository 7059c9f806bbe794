"""Folders that are whole or not there."""

import os
import time

import pytest

from benchmark.utils.atomic import STALE_AFTER, atomic_folder


def test_appears_whole(tmp_path):
    target = tmp_path / "root" / "set"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("whole")
        assert not target.exists()
    assert (target / "file").read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["set"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "set") as folder:
        (folder / "file").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_the_second_to_finish_discards_its_own(tmp_path):
    target = tmp_path / "set"
    with atomic_folder(target) as slow:
        (slow / "file").write_text("slow")
        with atomic_folder(target) as fast:
            (fast / "file").write_text("fast")
    assert (target / "file").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    old, recent = tmp_path / ".set.old", tmp_path / ".set.recent"
    for left in (old, recent):
        left.mkdir()
    long_ago = time.time() - STALE_AFTER - 60
    os.utime(old, (long_ago, long_ago))
    with atomic_folder(tmp_path / "set") as folder:
        (folder / "file").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.recent", "set"]


def test_an_unwritable_target_is_an_error(tmp_path):
    (tmp_path / "set").write_text("a file is in the way")
    with pytest.raises(OSError), atomic_folder(tmp_path / "set") as folder:
        (folder / "file").touch()
