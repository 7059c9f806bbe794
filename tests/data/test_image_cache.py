"""The cache of decoded images: bit-identical, complete or absent, shared by processes."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data import image_cache
from benchmark.data.decode import BrokenImage
from benchmark.data.images import Images
from benchmark.errors import UserError

SIZE = (24, 16)


@pytest.fixture
def paths(tmp_path):
    """Twelve JPEG files of noise."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        pixels = rng.integers(256, size=(60, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.jpg")
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def verify_again():
    """Forget what earlier tests have verified."""
    image_cache._verified_errors.cache_clear()


@pytest.fixture
def forbid_decoding(monkeypatch):
    return lambda: monkeypatch.setattr("benchmark.data.images.decode", lambda *_, **__: pytest.fail("decoded again"))


def open_cached(paths, tmp_path, **options) -> Images:
    return Images(paths, SIZE, cache=tmp_path / "cache" / "set-train", **options)


def cache_folders(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def test_bit_identical_to_decoding(paths, tmp_path):
    cached, decoded = open_cached(paths, tmp_path), Images(paths, SIZE, limit=0)
    assert cached.predecoded
    assert not decoded.predecoded
    assert all(torch.equal(cached[index], decoded[index]) for index in range(len(paths)))
    assert all(name.startswith("set-train-24x16-") for name in cache_folders(tmp_path))


def test_created_once(paths, tmp_path, forbid_decoding):
    open_cached(paths, tmp_path)
    forbid_decoding()
    open_cached(paths, tmp_path)
    assert len(cache_folders(tmp_path)) == 1


def test_depends_on_files_size_list_and_software(paths, tmp_path, monkeypatch):
    open_cached(paths, tmp_path)
    open_cached(paths[1:], tmp_path)
    Images(paths, (8, 8), cache=tmp_path / "cache" / "set-train")
    Image.new("RGB", (50, 60), "red").save(paths[3])
    assert open_cached(paths, tmp_path)[3].float().mean((1, 2))[0] > 250
    assert len(cache_folders(tmp_path)) == 4
    monkeypatch.setattr(image_cache, "version", lambda package: f"next {package}")
    open_cached(paths, tmp_path)
    assert len(cache_folders(tmp_path)) == 5


def test_depends_on_the_background(paths, tmp_path):
    Image.new("RGBA", (50, 60)).save(paths[3], "PNG")
    white, black = open_cached(paths, tmp_path), open_cached(paths, tmp_path, background=(0, 0, 0))
    assert len(cache_folders(tmp_path)) == 2
    assert white[3].min() == 255
    assert black[3].max() == 0
    assert torch.equal(white[2], black[2])


def test_file_name_that_is_not_text(paths, tmp_path):
    odd = paths[0].rename(paths[0].with_name(os.fsdecode(b"\xc4\xe3.png")))
    assert torch.equal(open_cached([odd, *paths[1:]], tmp_path)[0], Images([odd], SIZE)[0])


def test_independent_of_the_folder_of_the_dataset(paths, tmp_path, forbid_decoding):
    open_cached(paths, tmp_path)
    paths[0].parent.rename(tmp_path / "moved")
    forbid_decoding()
    open_cached([tmp_path / "moved" / path.name for path in paths], tmp_path)


def test_independent_of_relative_and_absolute_paths(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixed = [path.relative_to(tmp_path) if number % 2 else path for number, path in enumerate(paths)]
    assert open_cached(mixed, tmp_path)._decoded.folder == open_cached(paths, tmp_path)._decoded.folder


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("images.npy", lambda content: content[:-10]),
        ("images.npy", lambda content: content[:-1] + b"\7"),
        ("images.npy", lambda content: content.replace(b"(12, 3, 24, 16)", b"(6, 6, 24, 16) ")),
        ("images.npy", None),
        ("manifest.json", lambda _: b"{"),
        ("manifest.json", lambda _: b"{}"),
        ("manifest.json", lambda _: b"[]"),
        ("manifest.json", lambda content: content.replace(b'"broken": {}', b'"broken": {"3": "not so"}')),
    ],
)
def test_damage_is_an_error(paths, tmp_path, file, damage):
    path = open_cached(paths, tmp_path)._decoded.folder / file
    image_cache._verified_errors.cache_clear()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"packed images .* are damaged .*: delete the folder"):
        open_cached(paths, tmp_path)


def test_format(paths, tmp_path):
    images = open_cached(paths, tmp_path)
    manifest = json.loads((images._decoded.folder / "manifest.json").read_text())
    content = b"".join(images[index].numpy().tobytes() for index in range(len(paths)))
    assert manifest == {"sha256": hashlib.sha256(content + b"{}").hexdigest(), "broken": {}}
    array = np.load(images._decoded.folder / "images.npy")
    assert (array.shape, array.dtype) == ((12, 3, *SIZE), np.uint8)


def test_broken_image_is_an_error_or_recorded(paths, tmp_path):
    paths[5].write_bytes(b"")
    threads = threading.active_count()
    with pytest.raises(BrokenImage, match=str(paths[5])):
        open_cached(paths, tmp_path)
    assert threading.active_count() == threads, "the progress bar was not stopped"
    assert cache_folders(tmp_path) == []
    images = open_cached(paths, tmp_path, skip_broken=True)
    with pytest.raises(BrokenImage, match=str(paths[5])):
        _ = images[5]
    assert images.broken() == [paths[5]]
    assert torch.equal(images[6], Images(paths[6:], SIZE)[0])
    with pytest.raises(BrokenImage, match=str(paths[5])):
        open_cached(paths, tmp_path)


def test_full_disk_leaves_no_files(paths, tmp_path, full_disk):
    with full_disk(5000), pytest.raises(OSError, match="File too large"):
        open_cached(paths, tmp_path)
    assert cache_folders(tmp_path) == []
    assert open_cached(paths, tmp_path).predecoded


def test_pickled_without_its_pixels(paths, tmp_path):
    images = open_cached(paths, tmp_path)
    expected = images[3].clone()
    pickled = pickle.dumps(images._decoded)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled)[3], expected)


@pytest.mark.slow
class TestProcesses:
    CODE = """
import sys, time
from pathlib import Path
import benchmark.data.images as images
decode = images.decode
def slow_decode(*arguments, **options):
    with open(sys.argv[1] + "/decoded", "a") as file:
        file.write("x")
    time.sleep(float(sys.argv[2]))
    return decode(*arguments, **options)
images.decode = slow_decode
paths = sorted(Path(sys.argv[1], "images").iterdir())
cached = images.Images(paths, (24, 16), cache=Path(sys.argv[1], "cache", "set-train"))
print(cached[11].float().mean().item())
"""

    def start(self, tmp_path, pause: float) -> subprocess.Popen:
        command = [sys.executable, "-c", self.CODE, str(tmp_path), str(pause)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def test_share_the_work(self, paths, tmp_path):
        processes = [self.start(tmp_path, 0.05) for _ in range(3)]
        outputs = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], outputs
        assert len({out for out, _ in outputs}) == 1
        assert (tmp_path / "decoded").read_text() == "x" * 12
        assert len(cache_folders(tmp_path)) == 1

    def test_killed_while_packing(self, paths, tmp_path):
        process = self.start(tmp_path, 0.3)
        deadline = time.monotonic() + 60
        while not list((tmp_path / "cache").glob(".*/*/images.npy")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert len(cache_folders(tmp_path)) == 1
        assert cache_folders(tmp_path)[0].startswith(".")
        images = open_cached(paths, tmp_path)
        assert cache_folders(tmp_path) == [images._decoded.folder.name]  # the temporary folder has been removed
        assert torch.equal(images[2], Images(paths, SIZE)[2])
