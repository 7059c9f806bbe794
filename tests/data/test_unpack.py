"""Unpacking archives: completely or not at all, only into the target folder, without overwriting."""

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import unpack as module
from benchmark.data.archive import PASSWORD_VARIABLE, ZipArchive
from benchmark.data.unpack import unpack
from benchmark.errors import UserError

FILES = {"VeRi/image_train/1.jpg": b"one" * 1000, "VeRi/image_test/2.jpg": b"two", "VeRi/empty.txt": b""}


def tar_file(path: Path, files=FILES, mode="w:gz", edit=lambda entry: entry) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry = edit(entry)
            archive.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    return path


def zip_file(path: Path, files=FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def entries(folder: Path) -> list[str]:
    """Everything in a folder except lock files."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(params=["zip", "tar", "tgz", "tar.bz2", "tar.xz"])
def archive(request, tmp_path):
    """`archive(files)` writes an archive; the test runs with every kind of archive."""
    kind = request.param
    modes = {"tar": "w", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
    path = tmp_path / f"official.{kind}"
    return lambda files=FILES: zip_file(path, files) if kind == "zip" else tar_file(path, files, modes[kind])


def test_files_are_identical(archive, root, capsys):
    unpack(archive(), root / "veri776")
    assert tree(root / "veri776") == {name: FILES[name] for name in sorted(FILES)}
    assert entries(root) == ["veri776"]
    assert "3 files, 3.0 kB" in capsys.readouterr().err


def test_existing_folder_keeps_its_other_files(archive, root):
    (root / "inshop").mkdir()
    (root / "inshop" / "list_eval_partition.txt").write_text("mine")
    unpack(archive(), root / "inshop")
    assert set(tree(root / "inshop")) == {*FILES, "list_eval_partition.txt"}


def test_nothing_is_overwritten(archive, root):
    (root / "veri776" / "VeRi").mkdir(parents=True)
    (root / "veri776" / "VeRi" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"veri776/VeRi exists already, and nothing is overwritten"):
        unpack(archive(), root / "veri776")
    assert tree(root / "veri776") == {"VeRi/mine.txt": b"mine"}
    assert entries(root) == ["veri776"]


def test_rejects_another_datasets_archive(archive, root):
    with pytest.raises(UserError, match=r"of another dataset, since it contains VeRi, and none of img, Eval/list\.txt"):
        unpack(archive(), root / "inshop", ("img", ("Eval/list.txt",)))
    assert entries(root) == []
    unpack(archive(), root / "veri776", ("img", ("nothing", "image_test")))
    assert set(tree(root / "veri776")) == set(FILES)


def test_rejects_a_folder(root):
    with pytest.raises(UserError, match="is a folder, not an archive"):
        unpack(root, root / "set")


def test_metadata_of_macos_is_left_out(archive, root):
    unpack(archive({**FILES, "__MACOSX/VeRi/._1.jpg": b"x", "VeRi/._1.jpg": b"x", "VeRi/.DS_Store": b"x"}), root / "v")
    assert set(tree(root / "v")) == set(FILES)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside", "VeRi/../../outside", "..\\outside", "C:\\outside", "c:outside", "\\outside", ".."],
)
def test_rejects_paths_outside_the_target(archive, root, name):
    with pytest.raises(UserError, match=r"is not unpacked: it contains .* which lies outside"):
        unpack(archive({**FILES, name: b"evil"}), root / "veri776")
    assert entries(root) == []
    assert not (root.parent / "outside").exists()


@given(st.text(max_size=30))
def test_checked_path_is_below_the_target(name):
    try:
        path = ZipArchive(Path("a.zip")).checked_path(name)
    except UserError:
        return
    target = Path(os.path.normpath(Path("/data/set") / path))
    assert target.is_relative_to("/data/set")
    assert target != Path("/data/set")


@pytest.mark.parametrize(
    ("kind", "description"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.FIFOTYPE, "a special file"),
        (tarfile.CHRTYPE, "a special file"),
        (tarfile.BLKTYPE, "a special file"),
    ],
)
def test_rejects_links_and_devices_in_a_tar_file(tmp_path, root, kind, description):
    def edit(entry):
        if entry.name == "VeRi/way":
            entry.type, entry.linkname, entry.size = kind, "/etc", 0
        return entry

    path = tar_file(tmp_path / "a.tar", {**FILES, "VeRi/way": b"", "VeRi/way/passwd": b"evil"}, "w", edit)
    with pytest.raises(UserError, match=f"contains 'VeRi/way', {description}"):
        unpack(path, root / "veri776")
    assert entries(root) == []


@pytest.mark.parametrize(("mode", "description"), [(0o120777, "a link"), (0o010644, "a special file")])
def test_rejects_links_and_devices_in_a_zip_file(tmp_path, root, mode, description):
    path = zip_file(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("VeRi/way")
        entry.external_attr = mode << 16
        archive.writestr(entry, "/etc")
    with pytest.raises(UserError, match=f"contains 'VeRi/way', {description}"):
        unpack(path, root / "veri776")
    assert entries(root) == []


class TestHostileTar:
    """Tar files whose headers state sizes that are not true, or that would fill memory or disk."""

    FILES: ClassVar = {"set/1.jpg": b"x" * 600, "set/2.jpg": b"y" * 600}

    def assert_rejected(self, tmp_path, root, content: bytes, message: str) -> None:
        for opener in (open, gzip.open):
            with opener(tmp_path / "a.tar", "wb") as file:
                file.write(content)
            with pytest.raises(UserError, match=message):
                unpack(tmp_path / "a.tar", root / "set")
            assert entries(root) == []

    @staticmethod
    def header(content: bytes, *, size: bytes = b"", kind: bytes = b"") -> bytes:
        """Replace the size or the type in the first header."""
        changed = bytearray(content)
        if size:
            changed[124:136] = size
        if kind:
            changed[156:157] = kind
        changed[148:156] = b" " * 8
        changed[148:156] = b"%06o\0 " % sum(changed[:512])
        return bytes(changed)

    @pytest.fixture
    def content(self, tmp_path):
        return tar_file(tmp_path / "whole.tar", self.FILES, "w").read_bytes()

    @pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"K"])
    @pytest.mark.parametrize(
        "size",
        [
            (-512).to_bytes(12, "big", signed=True),
            (-(2**80)).to_bytes(12, "big", signed=True),
            b"\x80" + (2**62).to_bytes(11, "big"),
            b"\x80" + (2**87 - 1).to_bytes(11, "big"),
            b"77777777777\0",
            b"9x\0\0\0\0\0\0\0\0\0\0",
        ],
    )
    def test_size(self, tmp_path, root, content, kind, size):
        self.assert_rejected(
            tmp_path, root, self.header(content, size=size, kind=kind), "is damaged|is not unpacked|is not a zip or tar"
        )

    @pytest.mark.parametrize("key", ["size", "GNU.sparse.realsize", "GNU.sparse.map", "GNU.sparse.numblocks", "path"])
    @pytest.mark.parametrize("value", ["-1", "-512", "1e9", "9" * 30, "9" * 5000, "x", "0,1,2"])
    def test_extended_header(self, tmp_path, root, key, value):
        with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            entry = tarfile.TarInfo("set/1.jpg")
            entry.size, entry.pax_headers = 600, {key: value, "GNU.sparse.major": "0", "GNU.sparse.minor": "1"}
            archive.addfile(entry, io.BytesIO(b"x" * 600))
        try:
            unpack(tmp_path / "pax.tar", root / "set")
        except UserError:
            assert entries(root) == []

    def test_sparse_file(self, tmp_path, root, content):
        sparse = bytearray(content[:512])
        sparse[386:410] = b"%011o\0%011o\0" % (2**33 - 512, 512)  # one block at the end
        sparse[483:495] = b"%011o\0" % 2**33  # size after unpacking
        sparse = self.header(bytes(sparse), size=b"%011o\0" % 512, kind=b"S")
        end = b"\0" * 1024
        self.assert_rejected(tmp_path, root, sparse + b"x" * 512 + end, "contains 'set/1.jpg', a sparse file")

    def test_many_long_names(self, tmp_path, root, content):
        """Python's tarfile calls itself for every header with a long name."""
        long_name = self.header(content[:512], size=b"%011o\0" % 5, kind=b"L") + b"a/b\0".ljust(512, b"\0")
        self.assert_rejected(tmp_path, root, long_name * 3000 + content, "is damaged or incomplete")

    def test_very_large_name(self, tmp_path, root, content):
        header = self.header(content[:512], size=b"%011o\0" % 2**27, kind=b"L")
        with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as file:
            file.write(header)
            for _ in range(128):
                file.write(b"a" * 2**20)
        with pytest.raises(UserError, match="a header asks for 134,217,728 bytes"):
            unpack(tmp_path / "a.tgz", root / "set")


def test_decompression_bomb(archive, root, monkeypatch):
    monkeypatch.setattr(module, "_ALLOWANCE", 10**5)
    path = archive({"set/1.jpg": b"\0" * 2 * 10**6})
    if path.suffix == ".tar":
        pytest.skip("it is not compressed")
    with pytest.raises(UserError, match="more than 100 times as large as it is, which images do not"):
        unpack(path, root / "set")
    assert entries(root) == []


def test_too_many_files(archive, root, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILES", 2)
    with pytest.raises(UserError, match="contains more than 2 files"):
        unpack(archive(), root / "set")


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "/".join(["x" * 100] * 30)])
def test_rejects_names_that_are_too_long(archive, root, name):
    with pytest.raises(UserError, match="contains a name that is too long"):
        unpack(archive({f"set/{name}.jpg": b"x"}), root / "set")
    assert entries(root) == []


def test_metadata_of_macos_are_counted(archive, root, capsys):
    unpack(archive({**FILES, "__MACOSX/VeRi/._1.jpg": b"x", "VeRi/.DS_Store": b"x"}), root / "v")
    assert "2 files with metadata of macOS are left out" in capsys.readouterr().err


def test_rejects_a_repeated_file(tmp_path, root):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for content in (b"first", b"second"):
            entry = tarfile.TarInfo("VeRi/1.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(UserError, match=r"contains 'VeRi/1\.jpg' twice"):
        unpack(tmp_path / "a.tar", root / "veri776")


def test_rejects_a_file_that_is_also_a_folder(archive, root):
    with pytest.raises(UserError, match="'VeRi/a' both as a file and as a folder"):
        unpack(archive({"VeRi/a": b"x", "VeRi/a/b": b"y"}), root / "veri776")
    assert entries(root) == []


def test_rejects_an_empty_archive(archive, root):
    with pytest.raises(UserError, match="contains no files"):
        unpack(archive({}), root / "veri776")


def test_too_large_for_the_disk(archive, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 999, 999))
    with pytest.raises(UserError, match=r"takes 3\.0 kB unpacked, but .* has 999 bytes left"):
        unpack(archive(), root / "veri776")
    assert entries(root) == []


def test_disk_that_fills_up(archive, root, full_disk):
    path = archive()
    with full_disk(2000), pytest.raises(OSError, match="File too large"):
        unpack(path, root / "veri776")
    assert entries(root) == []


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.6])
def test_incomplete_archive(archive, root, share):
    noise = {name: os.urandom(4000) for name in FILES}
    path = archive(noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"is damaged|is not a zip or tar file"):
        unpack(path, root / "veri776")
    assert entries(root) == []


def test_damaged_archive_gives_all_files_or_a_user_error(archive, root):
    noise = random.Random(0)
    files = {name: noise.randbytes(500) for name in FILES}
    path = archive(files)
    content = path.read_bytes()
    errors, places = 0, range(0, len(content), max(1, len(content) // 60))
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            unpack(path, root / "set")
        except UserError:
            errors += 1
            assert entries(root) == []
        else:
            found = tree(root / "set")
            assert len(found) == len(files)
            if path.suffix != ".tar":  # which has no checksum of its contents
                assert sorted(found.values()) == sorted(files.values())
            shutil.rmtree(root / "set")
    assert errors > (0.15 if path.suffix == ".tar" else 0.5) * len(places)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
class TestDamagedTarHeader:
    """Python's tarfile ends without an error at a damaged or missing header."""

    FILES: ClassVar = {f"set/{number}.jpg": bytes([number]) * 600 for number in range(20)}

    def assert_rejected(self, tmp_path, root, content: bytes, mode: str) -> None:
        openers = {"w": open, "w:gz": gzip.open, "w:bz2": bz2.open, "w:xz": lzma.open}
        with openers[mode](tmp_path / "cut", "wb") as file:
            file.write(content)
        with pytest.raises(UserError, match="is damaged or incomplete"):
            unpack(tmp_path / "cut", root / "set")
        assert entries(root) == []

    @pytest.mark.parametrize("cut", [10 * 1536, 10 * 1536 + 100, 10 * 1536 + 512, 20 * 1536])
    def test_missing(self, tmp_path, root, cut, mode):
        content = tar_file(tmp_path / "whole.tar", self.FILES, "w").read_bytes()
        assert content[10 * 1536 :].startswith(b"set/10.jpg"), "a member takes three blocks"
        self.assert_rejected(tmp_path, root, content[:cut], mode)

    def test_damaged(self, tmp_path, root, mode):
        content = bytearray(tar_file(tmp_path / "whole.tar", self.FILES, "w").read_bytes())
        content[10 * 1536 + 120] ^= 0xFF
        self.assert_rejected(tmp_path, root, bytes(content), mode)


def test_missing_checksum(tmp_path, root):
    path = tar_file(tmp_path / "a.tgz")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="is damaged or incomplete"):
        unpack(path, root / "set")


def test_wrong_checksum_of_a_truncated_stream(tmp_path, root):
    """Damaged compressed data can end while tarfile skips a member."""
    content = tar_file(tmp_path / "whole.tar", mode="w").read_bytes()
    compressed = bytearray(gzip.compress(content[:1000]))
    compressed[-8] ^= 0xFF
    (tmp_path / "a.tgz").write_bytes(compressed)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        unpack(tmp_path / "a.tgz", root / "set")
    assert entries(root) == []


def test_tar_file_of_the_current_folder(tmp_path, root):
    """Created like `tar -C VeRi -cf a.tar .`."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        folder = tarfile.TarInfo(".")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        entry = tarfile.TarInfo("./image_train/1.jpg")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"one"))
    unpack(tmp_path / "a.tar", root / "veri776")
    assert tree(root / "veri776") == {"image_train/1.jpg": b"one"}


def test_broken_link_is_not_overwritten(archive, root):
    (root / "veri776").mkdir()
    (root / "veri776" / "VeRi").symlink_to("nowhere")
    with pytest.raises(UserError, match="exists already, and nothing is overwritten"):
        unpack(archive(), root / "veri776")
    assert (root / "veri776" / "VeRi").is_symlink()


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_damaged_zip_file(tmp_path, root, place):
    path = zip_file(tmp_path / "a.zip", {"VeRi/1.jpg": os.urandom(5000)})
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        unpack(path, root / "veri776")
    assert entries(root) == []


def test_zip_bomb(tmp_path, root):
    """The directory states 3 bytes, and the stream contains a megabyte."""
    path = zip_file(tmp_path / "a.zip", {"VeRi/1.jpg": b"\0" * 10**6})
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\1\2")
    struct.pack_into("<I", content, directory + 24, 3)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        unpack(path, root / "veri776")
    assert entries(root) == []


@pytest.mark.parametrize("content", [b"", b"Rar!\x1a\x07\x00", b"7z\xbc\xaf\x27\x1c", b"text"])
def test_rejects_other_files(tmp_path, root, content):
    (tmp_path / "a.rar").write_bytes(content)
    with pytest.raises(UserError, match="is not a zip or tar file, or is damaged"):
        unpack(tmp_path / "a.rar", root / "veri776")


@pytest.mark.parametrize("name", ["VeRi.zip", "data/veri.tar.gz", "veri.7z"])
def test_archive_in_an_archive(tmp_path, root, name):
    path = zip_file(tmp_path / "a.zip", {name: b"", "readme.txt": b""})
    with pytest.raises(UserError, match=f"none of image_train, but an archive, {name}: unpack that one from it"):
        unpack(path, root / "veri776", ("image_train",))


@pytest.mark.parametrize("place", ["root", "target", "link"])
def test_target_that_is_not_a_folder(archive, root, place):
    target = root / "veri776"
    if place == "root":
        root.rmdir()
        root.write_bytes(b"")
        message = "Not a directory; choose another --data-root"
    else:
        target.symlink_to("nowhere") if place == "link" else target.write_bytes(b"")
        message = "veri776 is not a folder: move it away to unpack official"
    with pytest.raises(UserError, match=message):
        unpack(archive(), target)


def test_pipe_is_not_opened(tmp_path, root):
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(UserError, match=r"archive .*a\.zip is not a regular file"):
        unpack(tmp_path / "a.zip", root / "veri776")


def test_missing_archive(tmp_path, root):
    with pytest.raises(UserError, match=r"archive .*none\.zip does not exist"):
        unpack(tmp_path / "none.zip", root / "veri776")


def zip_encrypt(data: bytes, password: bytes, crc: int) -> bytes:
    """Encrypt by the traditional method of zip files (APPNOTE 6.1), which Python reads but does not write."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        table.append(value)
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte: int) -> None:
        keys[0] = (keys[0] >> 8) ^ table[(keys[0] ^ byte) & 0xFF]
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = (keys[2] >> 8) ^ table[(keys[2] ^ (keys[1] >> 24)) & 0xFF]

    for byte in password:
        update(byte)
    out = bytearray()
    for byte in os.urandom(11) + bytes([crc >> 24]) + data:
        mask = (keys[2] | 2) & 0xFFFF
        out.append(byte ^ ((mask * (mask ^ 1)) >> 8 & 0xFF))
        update(byte)
    return bytes(out)


@pytest.fixture
def locked(tmp_path) -> Path:
    """A zip file with one file, encrypted with the password "secret"."""
    content, name = b"one" * 100, b"img/1.jpg"
    crc = zlib.crc32(content)
    stored = zip_encrypt(content, b"secret", crc)
    common = struct.pack("<HHHHHIIIHH", 20, 1, 0, 0, 0x21, crc, len(stored), len(content), len(name), 0)
    local = b"PK\3\4" + common + name + stored
    central = b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path = tmp_path / "img.zip"
    path.write_bytes(local + central + end)
    return path


class TestPassword:
    def test_requested_once(self, locked, root, monkeypatch):
        prompts = []
        monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
        monkeypatch.setattr("getpass.getpass", lambda prompt: prompts.append(prompt) or "secret")
        unpack(locked, root / "inshop")
        assert tree(root / "inshop") == {"img/1.jpg": b"one" * 100}
        assert prompts == ["Password of img.zip: "]

    def test_from_the_environment(self, locked, root, monkeypatch):
        monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
        unpack(locked, root / "inshop")
        assert tree(root / "inshop") == {"img/1.jpg": b"one" * 100}

    def test_wrong_password_leaves_no_files(self, locked, root, monkeypatch):
        for guess in ("wrong", "Secret"):  # one in 256 is detected only by the checksum
            monkeypatch.setenv(PASSWORD_VARIABLE, guess)
            with pytest.raises(UserError, match=r"password is wrong|is damaged, or the password is wrong"):
                unpack(locked, root / "inshop")
        assert entries(root) == []

    def test_missing_without_a_terminal(self, locked, root, monkeypatch):
        monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(UserError, match=rf"img\.zip needs a password: .*\${PASSWORD_VARIABLE}"):
            unpack(locked, root / "inshop")
        assert entries(root) == []

    def test_aes_is_not_supported(self, locked, root):
        content = bytearray(locked.read_bytes())
        struct.pack_into("<H", content, content.rindex(b"PK\1\2") + 10, 99)
        locked.write_bytes(content)
        with pytest.raises(UserError, match="is encrypted with AES, which Python does not support"):
            unpack(locked, root / "inshop")


@pytest.mark.slow
class TestInterruption:
    CODE = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
from benchmark.data import unpack as module
module._BLOCK = 100
from benchmark.data.archive import TarArchive
contents = TarArchive.contents
def slow(self):
    for member in contents(self):
        yield member
        Path(sys.argv[2], "started").touch()
        time.sleep(600)
TarArchive.contents = slow
module.unpack(Path(sys.argv[1]), Path(sys.argv[2], "data", "veri776"))
"""

    def interrupted(self, tmp_path, number) -> int:
        path = tar_file(tmp_path / "a.tgz")
        process = subprocess.Popen([sys.executable, "-c", self.CODE, str(path), str(tmp_path)], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode

    def test_interrupt_leaves_no_files(self, tmp_path, root):
        assert self.interrupted(tmp_path, signal.SIGINT) != 0
        assert entries(root) == []

    def test_leftovers_of_a_killed_process_are_removed(self, tmp_path, root):
        assert self.interrupted(tmp_path, signal.SIGKILL) == -signal.SIGKILL
        leftovers = entries(root)
        assert len(leftovers) == 1
        assert leftovers[0].startswith(".veri776.")
        unpack(tmp_path / "a.tgz", root / "veri776")
        assert entries(root) == ["veri776"]
        assert set(tree(root / "veri776")) == set(FILES)


def test_failing_move_is_undone(tmp_path, root, monkeypatch):
    path = tar_file(tmp_path / "a.tgz", {"a/1": b"1", "b/2": b"2"})
    rename, calls = Path.rename, []

    def once(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(OSError, match="No space"):
        unpack(path, root / "set")
    assert list((root / "set").iterdir()) == []


def test_second_of_two_calls_waits_and_fails(tmp_path, root, monkeypatch):
    path, errors = zip_file(tmp_path / "a.zip"), []
    entered = threading.Barrier(2, timeout=30)
    extract = module._extract

    def slow(*arguments):
        entered.wait()
        time.sleep(0.2)
        extract(*arguments)

    monkeypatch.setattr(module, "_extract", slow)

    def run():
        try:
            unpack(path, root / "set")
        except UserError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    entered.wait()
    for thread in threads:
        thread.join(timeout=60)
    assert len(errors) == 1
    assert "exists already" in errors[0]
    assert set(tree(root / "set")) == set(FILES)


def test_backslashes_are_separators():
    assert ZipArchive(Path("a.zip")).checked_path("a\\b\\c.jpg") == PurePosixPath("a/b/c.jpg")
