"""The packed cache: the same bits, whole or not there, shared by processes."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data import image_cache as packed_images
from benchmark.data.decode import BrokenImage
from benchmark.data.images import Images
from benchmark.errors import UserError

SIZE = (24, 16)


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        pixels = rng.integers(256, size=(60, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.jpg")
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def forget():
    """Nothing that one test has verified counts for the next."""
    packed_images._verified.cache_clear()


def packed(paths, tmp_path, **options) -> Images:
    return Images(paths, SIZE, cache=tmp_path / "cache" / "set-train", **options)


def folders(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def test_gives_the_same_bits_as_decoding(paths, tmp_path):
    ours, plain = packed(paths, tmp_path), Images(paths, SIZE, limit=0)
    assert ours.kept
    assert not plain.kept
    assert all(torch.equal(ours[index], plain[index]) for index in range(len(paths)))
    assert all(name.startswith("set-train-24x16-") for name in folders(tmp_path))


def test_is_made_once(paths, tmp_path, monkeypatch):
    packed(paths, tmp_path)
    monkeypatch.setattr("benchmark.data.images.decode", lambda *_, **__: pytest.fail("decoded again"))
    packed(paths, tmp_path)
    assert len(folders(tmp_path)) == 1


def test_another_file_size_or_list_is_another_one(paths, tmp_path):
    packed(paths, tmp_path)
    packed(paths[1:], tmp_path)
    Images(paths, (8, 8), cache=tmp_path / "cache" / "set-train")
    Image.new("RGB", (50, 60), "red").save(paths[3])
    assert packed(paths, tmp_path)[3].float().mean((1, 2))[0] > 250
    assert len(folders(tmp_path)) == 4


def test_does_not_depend_on_where_the_set_lies(paths, tmp_path, monkeypatch):
    packed(paths, tmp_path)
    paths[0].parent.rename(tmp_path / "moved")
    monkeypatch.setattr("benchmark.data.images.decode", lambda *_, **__: pytest.fail("decoded again"))
    packed([tmp_path / "moved" / path.name for path in paths], tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-10]),
        lambda folder: (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-1] + b"\7"),
        lambda folder: (folder / "images.npy").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text(
            (folder / "manifest.json").read_text().replace('"broken": {}', '"broken": {"3": "not so"}')
        ),
        lambda folder: (folder / "images.npy").write_bytes(
            (folder / "images.npy").read_bytes().replace(b"(12, 3, 24, 16)", b"(6, 6, 24, 16) ")
        ),
        lambda folder: (folder / "manifest.json").write_text("{"),
    ],
)
def test_damage_is_noticed(paths, tmp_path, damage):
    folder = packed(paths, tmp_path)._kept.folder
    packed_images._verified.cache_clear()
    damage(folder)
    with pytest.raises(UserError, match=r"packed images .* are damaged .*: delete the folder"):
        packed(paths, tmp_path)


def test_the_hash_is_that_of_the_pixels(paths, tmp_path):
    images = packed(paths, tmp_path)
    manifest = json.loads((images._kept.folder / "manifest.json").read_text())
    content = b"".join(images[index].numpy().tobytes() for index in range(len(paths)))
    assert manifest == {"sha256": hashlib.sha256(content + b"{}").hexdigest(), "broken": {}}
    array = np.load(images._kept.folder / "images.npy")
    assert (array.shape, array.dtype) == ((12, 3, *SIZE), np.uint8)


def test_a_broken_image_stops_or_is_remembered(paths, tmp_path):
    paths[5].write_bytes(b"")
    with pytest.raises(BrokenImage, match=str(paths[5])):
        packed(paths, tmp_path)
    assert folders(tmp_path) == []
    images = packed(paths, tmp_path, skip_broken=True)
    with pytest.raises(BrokenImage, match=str(paths[5])):
        _ = images[5]
    assert images.broken() == [paths[5]]
    assert torch.equal(images[6], Images(paths[6:], SIZE)[0])
    with pytest.raises(BrokenImage, match=str(paths[5])):
        packed(paths, tmp_path)


def test_a_full_disk_leaves_nothing(paths, tmp_path, full_disk):
    with full_disk(5000), pytest.raises(OSError, match="File too large"):
        packed(paths, tmp_path)
    assert folders(tmp_path) == []
    assert packed(paths, tmp_path).kept


def test_paths_may_be_relative_and_absolute(paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixed = [path.relative_to(tmp_path) if number % 2 else path for number, path in enumerate(paths)]
    assert packed(mixed, tmp_path)._kept.folder == packed(paths, tmp_path)._kept.folder


def test_travels_to_a_process_without_its_content(paths, tmp_path):
    images = packed(paths, tmp_path)
    expected = images[3].clone()
    assert len(pickle.dumps(images._kept)) < 1000
    assert torch.equal(pickle.loads(pickle.dumps(images._kept))[3], expected)


CODE = """
import os, sys, time
from pathlib import Path
import benchmark.data.images as images
decode = images.decode
def counting(*arguments, **options):
    with open(sys.argv[1] + "/decoded", "a") as file:
        file.write("x")
    time.sleep(float(sys.argv[2]))
    return decode(*arguments, **options)
images.decode = counting
paths = sorted(Path(sys.argv[1], "images").iterdir())
made = images.Images(paths, (24, 16), cache=Path(sys.argv[1], "cache", "set-train"))
print(made[11].float().mean().item())
"""


def start(tmp_path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", CODE, str(tmp_path), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_want_the_same_one_share_the_work(paths, tmp_path):
    processes = [start(tmp_path, 0.05) for _ in range(3)]
    printed = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], printed
    assert len({out for out, _ in printed}) == 1
    assert (tmp_path / "decoded").read_text() == "x" * 12
    assert len(folders(tmp_path)) == 1


def test_killed_while_packing(paths, tmp_path):
    process = start(tmp_path, 0.3)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob(".*/*/images.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert len(folders(tmp_path)) == 1
    assert folders(tmp_path)[0].startswith(".")
    images = packed(paths, tmp_path)
    assert folders(tmp_path) == [images._kept.folder.name], "what the killed process left is gone"
    assert torch.equal(images[2], Images(paths, SIZE)[2])
