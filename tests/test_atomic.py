"""Files and folders that are written completely or not at all."""

import os
import signal
import stat

import pytest

from benchmark.utils.atomic import atomic_folder, atomic_path, sweep, write_text


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestFile:
    def test_appears_at_the_end(self, tmp_path):
        target = tmp_path / "new" / "file.txt"
        with atomic_path(target) as temporary:
            temporary.write_text("content")
            assert not target.exists()
            assert temporary.parent == target.parent  # the same file system
            assert temporary.suffix == ".txt"  # some writers choose the format by the suffix
        assert target.read_text() == "content"
        assert names(target.parent) == ["file.txt"]

    def test_error_keeps_the_old_content(self, tmp_path):
        target = tmp_path / "file.txt"
        write_text(target, "old")
        with pytest.raises(ValueError, match="full"), atomic_path(target) as temporary:
            temporary.write_text("half of the ne")
            raise ValueError("full")
        assert target.read_text() == "old"
        assert names(tmp_path) == ["file.txt"]

    def test_reader_sees_the_old_or_the_new_content(self, tmp_path):
        target = tmp_path / "file.txt"
        write_text(target, "old")
        with target.open() as reader:
            write_text(target, "new")
            assert reader.read() == "old"
        assert target.read_text() == "new"

    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_permissions_follow_the_umask(self, tmp_path, mask):
        before = os.umask(mask)
        try:
            write_text(tmp_path / "file.txt", "content")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o666 & ~mask

    def test_text_is_utf8(self, tmp_path):
        write_text(tmp_path / "file.txt", "Radenović\n")
        assert (tmp_path / "file.txt").read_bytes() == b"Radenovi\xc4\x87\n"


class TestFolder:
    def test_appears_at_the_end(self, tmp_path):
        target = tmp_path / "root" / "set"
        with atomic_folder(target) as folder:
            (folder / "file").write_text("complete")
            assert not target.exists()
        assert (target / "file").read_text() == "complete"
        assert names(target.parent) == ["set"]

    def test_error_leaves_no_files(self, tmp_path):
        with pytest.raises(RuntimeError), atomic_folder(tmp_path / "set") as folder:
            (folder / "file").touch()
            raise RuntimeError
        assert names(tmp_path) == []

    def test_first_of_two_writers_wins(self, tmp_path):
        target = tmp_path / "set"
        with atomic_folder(target) as slow:
            (slow / "file").write_text("slow")
            with atomic_folder(target) as fast:
                (fast / "file").write_text("fast")
        assert (target / "file").read_text() == "fast"
        assert names(tmp_path) == ["set"]

    def test_file_in_the_way_is_an_error(self, tmp_path):
        (tmp_path / "set").write_text("a file")
        with pytest.raises(OSError), atomic_folder(tmp_path / "set") as folder:
            (folder / "file").touch()


@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_next_writer_sweeps_what_a_killed_writer_has_left(tmp_path, write):
    process = os.fork()
    if not process:
        with write(tmp_path / "killed") as temporary:
            (temporary / "half" if temporary.is_dir() else temporary).write_text("hal")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert len(names(tmp_path)) == 1
    with write(tmp_path / "slow"):  # in this process: it is alive, and its temporary file stays
        write_text(tmp_path / "file.txt", "content")
        assert len(names(tmp_path)) == 2
    assert names(tmp_path) == ["file.txt", "slow"]


def test_sweeping_leaves_other_hidden_files(tmp_path):
    (tmp_path / ".gitignore").touch()
    (tmp_path / ".tmp-mine").mkdir()
    (tmp_path / ".tmp-mine" / "file").touch()
    sweep(tmp_path)
    sweep(tmp_path / "absent")
    assert names(tmp_path) == [".gitignore", ".tmp-mine"]


def test_full_disk_names_the_file(tmp_path, full_disk):
    with full_disk(10), pytest.raises(OSError) as raised:
        write_text(tmp_path / "file.txt", 100 * "x")
    assert raised.value.filename == str(tmp_path / "file.txt")
    assert names(tmp_path) == []
