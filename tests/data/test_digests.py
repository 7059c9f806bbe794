"""Content hashes of files: computed once, and again whenever the content may have changed."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.data import digests
from benchmark.data.digests import UNREADABLE, DigestCache, hash_file


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files that the tests have just written count as settled."""
    monkeypatch.setattr(digests, "_SETTLED", 0)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / "data" / f"{number}.jpg" for number in range(4)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(f"content {path.name}")
    time.sleep(0.02)  # one tick of the file system's clock
    return paths


@pytest.fixture
def hashed(tmp_path):
    """`hashed(paths)` returns the hashes of files, and the names of those that were read for it."""

    def call(paths: list[Path]) -> tuple[list[str], list[str]]:
        read: list[str] = []

        def digest(path: Path) -> str:
            read.append(path.name)
            return hash_file(path)

        return DigestCache(tmp_path / "root", tmp_path / "data", "set", digest)(paths), sorted(read)

    return call


def cache_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "root" / ".identity").glob("set-*.json")
    return file


def sha256(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_every_file_is_read_once(files, hashed):
    assert hashed(files) == (sha256(files), ["0.jpg", "1.jpg", "2.jpg", "3.jpg"])
    assert hashed([files[2], *files]) == (sha256([files[2], *files]), [])


def test_names_and_times_of_any_kind(files, hashed):
    """A name that is not UTF-8, and a time in the future."""
    other = files[0].rename(files[0].with_name(os.fsdecode(b"\xc4\xe3.jpg")))
    os.utime(other, (4e9, 4e9))
    assert hashed([other])[1] == [other.name]
    assert hashed([other]) == (sha256([other]), [])


def test_a_new_file_does_not_forget_the_others(files, hashed):
    hashed(files[:2])
    assert hashed(files[2:])[1] == ["2.jpg", "3.jpg"]
    assert hashed(files)[1] == []


def change_time(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def overwrite_and_restore_time(path: Path) -> None:
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text("CONTENT 1.jpg")
    os.utime(path, ns=times)


def replace_by_older(path: Path) -> None:
    path.with_name("new").write_text("CONTENT 1.jpg")
    os.utime(path.with_name("new"), ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [change_time, overwrite_and_restore_time, replace_by_older])
def test_a_file_with_other_times_is_read_again(files, hashed, change):
    hashed(files)
    change(files[1])
    assert hashed(files) == (sha256(files), ["1.jpg"])


def test_a_file_that_was_just_written_is_read_again(files, hashed, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED", 60_000_000_000)
    hashed(files)
    assert hashed(files)[1] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), os.mkfifo], ids=["no", "folder", "pipe"]
)
def test_what_is_no_file_is_unreadable(tmp_path, hashed, make):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data" / "a.jpg")
    assert hashed([tmp_path / "data" / "a.jpg"]) == ([UNREADABLE], [])


def sealed(content: object) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        sealed(b"{"),
        sealed(b"[" * 100_000),
        sealed([]),
        sealed({"format": 1}),
        sealed({"format": 99, "files": {}}),
        sealed({"format": 1, "files": []}),
        *(sealed({"format": 1, "files": {"1.jpg": entry}}) for entry in (None, [], [1, 2, 3, 4], {"0": 1}, ["a"] * 4)),
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"0.jpg"', b'"1.jpg"'),
    ],
)
def test_a_damaged_cache_is_computed_again(files, hashed, tmp_path, content):
    hashed(files)
    cache = cache_file(tmp_path)
    cache.write_bytes(content(cache.read_bytes()) if callable(content) else content)
    assert hashed(files)[0] == sha256(files)
    assert hashed(files)[1] == []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_cache_that_is_no_file_is_ignored(files, hashed, tmp_path, make):
    hashed(files)
    cache_file(tmp_path).unlink()
    make(next(tmp_path.glob("root/.identity/.set-*.lock")).with_name(f"{hidden_name(tmp_path)}"))
    assert hashed(files)[0] == sha256(files)


def hidden_name(tmp_path: Path) -> str:
    return next(tmp_path.glob("root/.identity/.set-*.lock")).name.removeprefix(".").removesuffix(".lock")


def test_hashes_are_kept_elsewhere_or_not_at_all_if_the_root_cannot_be_written(
    files, hashed, tmp_path, monkeypatch, capsys
):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / ".identity").touch()  # not a read-only folder: tests may run as root
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert hashed(files)[0] == sha256(files)
    assert hashed(files) == (sha256(files), [])
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert hashed(files) == (sha256(files), ["0.jpg", "1.jpg", "2.jpg", "3.jpg"])
    assert "cannot be kept in" in " ".join(capsys.readouterr().err.split())


def test_a_full_disk_does_not_matter(files, hashed, full_disk):
    with full_disk(50):
        assert hashed(files)[0] == sha256(files)
    assert hashed(files)[0] == sha256(files)


@pytest.mark.slow
def test_processes_share_the_work(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(12):
        (tmp_path / "data" / f"{number}.jpg").write_text(str(number))
    code = """
import sys, time
from pathlib import Path
from benchmark.data import digests
digests._SETTLED = 0
root = Path(sys.argv[1])
def slow(path):
    with open(root / "read", "a") as file:
        file.write("x")
    time.sleep(0.05)
    return digests.hash_file(path)
print(digests.DigestCache(root, root / "data", "set", slow)(sorted((root / "data").iterdir())))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert len(outputs) == 1 and outputs != {""}
    assert (tmp_path / "read").read_text() == "x" * 12
