"""Random mutations of images, tables, folders and archives: anything but a result or a UserError is a mistake."""

import bz2
import csv
import gzip
import io
import lzma
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.check import check, remarks
from benchmark.data.contents import headers
from benchmark.data.decode import decode
from benchmark.data.unpack import unpack
from benchmark.datasets.folder import Folder
from benchmark.errors import UserError

pytestmark = pytest.mark.slow
NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1")


def mutated(content: bytes, choose: random.Random) -> bytes:
    """Return the content with a few bytes changed, a part cut out, doubled or moved, or the end missing."""
    data = bytearray(content)
    for _ in range(choose.choice((1, 1, 2, 4, 16))):
        place, length = choose.randrange(len(data) + 1), choose.choice((1, 2, 4, 16, 512))
        part = data[place : place + length]
        kind = choose.randrange(6)
        if kind == 0:
            data[place : place + 1] = choose.randbytes(1)
        elif kind == 1:
            data[place : place + 4] = choose.choice(NUMBERS)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = part
        elif kind == 4:
            other = choose.randrange(len(data) + 1)
            data[other : other + length] = part
        elif choose.random() < 0.2:
            del data[place:]
    return bytes(data)


def only_user_errors(action: Callable[[], object]) -> bool:
    """Whether the action succeeded. Any other exception than a UserError passes through."""
    try:
        action()
    except UserError as error:
        assert str(error).strip()
        return False
    return True


def images() -> list[bytes]:
    """Images of all formats and modes, with metadata."""
    noise = np.random.default_rng(0).integers(256, size=(24, 17, 4), dtype=np.uint8)
    rgba, exif = Image.fromarray(noise), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    rgb, options = rgba.convert("RGB"), {"exif": exif, "icc_profile": b"x" * 200}
    files = []
    for image, kind, more in (
        (rgb, "JPEG", options | {"comment": "a comment"}),
        (rgb, "JPEG", {"progressive": True}),
        (rgba.convert("CMYK"), "JPEG", {}),
        (rgba, "PNG", options),
        (rgb.quantize(8), "PNG", {"transparency": b"\0\x80\xff"}),
        (Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG", {"transparency": 257}),
        (rgba, "WEBP", options | {"lossless": True}),
        (rgba, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "jpeg", "exif": exif}),
        (rgb, "BMP", {}),
        (rgb.quantize(8), "GIF", {"transparency": 0}),
        (rgb, "PPM", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **more)
        files.append(buffer.getvalue())
    return files


@pytest.mark.filterwarnings("ignore")
def test_images(tmp_path, rounds):
    originals, path, decoded = images(), tmp_path / "image.png", 0
    for choose in rounds():
        path.write_bytes(mutated(choose.choice(originals), choose))
        size = choose.choice((None, (8, 8), (300, 300)))
        decoded += only_user_errors(lambda size=size: decode(path, size))
        headers([path])
    assert decoded, "not a single one was decoded"


CELLS = (
    *(
        "",
        " ",
        "ada",
        "Ada ",
        "0001",
        "1",
        "nan",
        "door",
        "train",
        "Test",
        "query",
        "gallery",
        "val",
        "a.jpg",
        "./a.jpg",
    ),
    *(
        "b.jpg",
        "a\\b.jpg",
        "/etc/passwd",
        "~",
        "\0",
        "\x1b[2J",
        "é",
        "😀",
        "\udcff",
        "x" * 300,
        "a\nb",
        '"',
        "'",
        ";",
        "\ufeff",
    ),
    *("path", "identity", "camera", "split", "Path", "camid", "label", "9" * 30, "-1", "1.0", "=1+1", "../b.jpg", "."),
)


def table(choose: random.Random) -> bytes:
    """A table that is often valid, with a few random cells, separators and encodings in others."""
    buffer = io.StringIO()
    separator, line_end = choose.choice(",,,,,,,,;\t"), choose.choice(("\n", "\r\n", "\r"))
    writer = csv.writer(buffer, delimiter=separator, lineterminator=line_end)
    header = ["path", "identity", "camera", "split"][: choose.choice((2, 3, 4, 4, 4))]
    if choose.random() < 0.15:
        header[choose.randrange(len(header))] = choose.choice(CELLS)
    writer.writerow(header)
    wrong = choose.choice((0, 0, 0.1, 0.4))
    for number in range(choose.choice((0, 1, 4, 8, 8, 8))):
        name = choose.choice(("a.jpg", "b.jpg")) if choose.random() < wrong else f"{number}.jpg"
        row = [name, f"{number // 2}", ("door", "gate")[number % 2], ("train", "test")[number // 4]]
        if choose.random() < wrong:
            row[choose.randrange(4)] = choose.choice(CELLS)
        columns = len(header) + (choose.choice((1, -1)) if choose.random() < wrong / 2 else 0)
        writer.writerow(row[:columns])
    encoding = choose.choice((*["utf-8"] * 8, "utf-8-sig", "utf-16"))
    content = buffer.getvalue().encode(encoding, "surrogatepass")
    return mutated(content, choose) if choose.random() < 0.4 else content


def test_tables(tmp_path, rounds):
    for name in ("a", "b", *map(str, range(8))):
        Image.new("RGB", (8, 8), f"#{ord(name):02x}0000").save(tmp_path / f"{name}.jpg")
    path = tmp_path / "mine.csv"

    def read() -> None:
        dataset = Folder(tmp_path, path=str(path))
        report = str(check(dataset))
        assert report.replace("\n", "").isprintable() or "\x1b" not in report
        remarks(dataset)
        _ = dataset.train

    read_ones = 0
    for choose in rounds():
        path.write_bytes(table(choose))
        read_ones += only_user_errors(read)
    assert read_ones, "not a single table was read"


NAMES = (
    *(
        "train",
        "Test",
        "query",
        "gallery",
        "val",
        "cam1",
        "cam2",
        "ada",
        "bob",
        "0001",
        "1",
        "nan",
        "__MACOSX",
        ".hidden",
    ),
    *("x" * 200, "\udcff\udcfe", "a\nb", "\x1b[2J", "😀", "Training", "-1", " ", "data"),
)
FILES = (
    "1.jpg",
    "2.png",
    "3.heic",
    "4.txt",
    "Thumbs.db",
    ".DS_Store",
    "5.JPG",
    "6",
    "7.\udcff",
    "0001_c1s1.jpg",
    "8.gif",
)


def test_folders(tmp_path, rounds):
    image = images()[0]

    def read() -> None:
        dataset = Folder(tmp_path, path=str(tmp_path / "own"))
        str(check(dataset, decode=True)).encode()
        remarks(dataset)
        _ = dataset.train

    for choose in rounds():
        root = tmp_path / "own"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        folders = [root]
        for _ in range(choose.randrange(1, 10)):
            folder = choose.choice(folders[-3:]) / choose.choice(NAMES)
            folder.mkdir(exist_ok=True)
            folders.append(folder)
        for _ in range(choose.randrange(12)):
            place = choose.choice(folders) / choose.choice(FILES)
            if choose.random() < 0.1 and not os.path.lexists(place):
                place.symlink_to(choose.choice([".", "nowhere", "..", place.name, str(folders[-1])]))
            elif not place.is_dir():
                place.unlink(missing_ok=True)
                place.write_bytes(image if choose.random() < 0.9 else b"")
        only_user_errors(read)


def archives(folder: Path) -> list[bytes]:
    """Archives of all kinds."""
    files = {
        "set/train/1.jpg": b"one" * 300,
        "set/é/2.jpg": b"two",
        "set/" + "long" * 40 + "/3.jpg": b"",
        "set/4": b"\0" * 2000,
    }
    contents = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, content in files.items():
                if form == tarfile.USTAR_FORMAT and len(name) > 100:
                    continue
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        contents.append(buffer.getvalue())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        contents.append(buffer.getvalue())
    return contents


def repaired(content: bytes) -> bytes:
    """Return a tar file whose headers have valid checksums again, so that their other fields are read."""
    data = bytearray(content)
    for start in range(0, len(data) - 511, 512):
        block = data[start : start + 512]
        if b"ustar" in block:
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(data)


def test_archives(tmp_path, monkeypatch, capsys, rounds):
    monkeypatch.setattr("sys.stdin", io.StringIO())  # mutations may ask for a password
    originals, path, root = archives(tmp_path), tmp_path / "archive", tmp_path / "data"
    compress = (bytes, bytes, gzip.compress, bz2.compress, lzma.compress)
    for choose in rounds():
        original = choose.choice(originals)
        content = mutated(original, choose)
        if not original.startswith(b"PK"):
            content = choose.choice(compress)(repaired(content) if choose.random() < 0.7 else content)
            content = mutated(content, choose) if choose.random() < 0.1 else content
        path.write_bytes(content)
        if only_user_errors(lambda: unpack(path, root / "set")):
            assert all(file.resolve().is_relative_to(root) for file in root.rglob("*"))
            shutil.rmtree(root / "set")
        else:
            assert not (root / "set").exists()
    assert not [file for file in tmp_path.iterdir() if file not in (path, root)]
