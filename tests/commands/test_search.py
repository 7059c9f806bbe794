"""`benchmark embed` and `benchmark search`."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import load_student
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import save_student


@pytest.fixture
def small(tmp_path) -> Path:
    """The `student.pt` of a small network, with random weights."""
    path = tmp_path / "student.pt"
    save_student(Embedder("test_resnet", dim=8), path, (16, 16))
    return path


@pytest.fixture
def colors(tmp_path) -> Path:
    """A folder of images of single colors: 4 shades of red, green and blue each."""
    folder = tmp_path / "colors"
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for shade in range(4):
            pixels = np.zeros((20, 20, 3), np.uint8)
            pixels[..., channel] = 240 - 5 * shade
            Image.fromarray(pixels).save(folder / name / f"{shade}.png")
    return folder


def run(command_line, *arguments) -> tuple[str, str]:
    code, out, err = command_line(*arguments, "--device", "cpu")
    assert code == 0, err
    return out, err


def test_file_of_embeddings(command_line, small, colors, tmp_path):
    output = tmp_path / "new" / "e.npz"
    _, err = run(command_line, "embed", colors, "--student", small, "--output", output)
    assert "12 images embedded, 0 unchanged, 0 removed" in err
    with np.load(output) as arrays:
        assert arrays["embeddings"].shape == (12, 8)
        expected = load_student(small).embed([colors / path for path in arrays["paths"].tolist()])
        np.testing.assert_allclose(arrays["embeddings"], expected.numpy(), rtol=0, atol=1e-6)
    _, err = run(command_line, "embed", colors, "--student", small, "--output", output)
    assert "0 images embedded, 12 unchanged, 0 removed" in err


def test_search(command_line, small, colors, tmp_path):
    index, page = tmp_path / "index", tmp_path / "page.html"
    run(command_line, "embed", colors, "--student", small, "--output", index)
    small.unlink()  # the index has a copy
    query = colors / "green" / "0.png"
    out, _ = run(command_line, "search", query, "--index", index, "--count", 4, "--output", page)
    hits = re.findall(r"^(\d\.\d+) +(\S+)$", out, re.MULTILINE)
    assert hits[0] == ("1.000", str(query))
    assert {Path(path).parent.name for _, path in hits} == {"green"}
    text = page.read_text()
    assert text.count("<li") == 4 and "green/3.png" in text
    assert not re.search(r"(src|href)=", text) and text.count("url(data:image/jpeg;base64,") == 4


def test_several_images_one_of_them_new(command_line, small, colors, tmp_path):
    index, page = tmp_path / "index", tmp_path / "page.html"
    run(command_line, "embed", colors, "--student", small, "--output", index, "--index", "hnsw")
    new = tmp_path / "<b>new.png"
    Image.new("RGB", (50, 40), (0, 0, 233)).save(new)
    out, _ = run(
        command_line, "search", new, colors / "red" / "1.png", "--index", index, "--count", 2, "--output", page
    )
    assert "blue" in out.split("red/1.png")[0]
    assert "<b>new" not in page.read_text() and "&lt;b&gt;new.png" in page.read_text()
    shutil.rmtree(colors)  # the page marks images that are gone
    run(command_line, "search", new, "--index", index, "--output", page)
    assert "broken image" in page.read_text()


def test_broken_image_is_left_out(command_line, small, colors, tmp_path):
    (colors / "red" / "0.png").write_bytes(b"x")
    arguments = ("embed", colors, "--student", small, "--output", tmp_path / "index", "--device", "cpu")
    code, _, err = command_line(*arguments)
    assert code == 2 and "--skip-broken" in err
    code, _, err = command_line(*arguments, "--skip-broken")
    assert code == 0 and "1 images left out because they are broken" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "nowhere", "--student", "student.pt", "--output", "i"), "nowhere: not a folder"),
        (("embed", "colors", "--student", "none.pt", "--output", "i"), "none.pt does not exist"),
        (("embed", "colors", "--student", "student.pt", "--output", "i", "--index", "tree"), "--index tree: choose"),
        (("embed", "colors", "--student", "student.pt", "--output", "colors"), "colors exists and has other content"),
        (("search", "a.png", "--index", "colors"), "colors is not a folder of embeddings"),
        (("search", "a.png", "--index", "colors", "--output", "a.txt"), "must end in .html"),
    ],
)
def test_mistakes(command_line, small, colors, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = command_line(*arguments, "--device", "cpu")
    assert code == 2 and message in err
    assert not (tmp_path / "i").exists()


def embedding(folder: Path, student: Path, output: Path) -> list[str]:
    command = [sys.executable, "-m", "benchmark", "embed", folder, "--student", student, "--output", output]
    return [*map(str, command), "--device", "cpu", "--index", "ivfpq"]


def many_pictures(folder: Path, count: int) -> Path:
    """Write a folder of many small pictures: links to a hundred files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(100):
        Image.fromarray(generator.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(folder / f"{number:06}.png")
    for number in range(100, count):
        os.link(folder / f"{number % 100:06}.png", folder / f"{number:06}.png")
    return folder


@pytest.mark.slow
def test_a_hundred_thousand_pictures_in_bounded_memory(small, tmp_path):
    """Also killed in between: the embeddings that were written are kept."""
    peaks = []
    for count in (5_000, 100_000):
        folder, output = many_pictures(tmp_path / f"{count}", count), tmp_path / f"index{count}"
        process = subprocess.Popen(embedding(folder, small, output), stderr=subprocess.PIPE, text=True)
        if count == 100_000:
            while len(list(output.glob("shards/[0-9]*.npz"))) < 5:
                assert process.poll() is None, process.stderr.read()
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = subprocess.Popen(embedding(folder, small, output), stderr=subprocess.PIPE, text=True)
        _, err = process.communicate()
        assert process.returncode == 0, err
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10)
    embedded, kept = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:images|unchanged)", err))
    assert kept >= 5 * 2048 and embedded + kept == 100_000
    # 95,000 decoded pictures are 73 MB; their names and states take 20 MB.
    assert peaks[1] - peaks[0] < 60, peaks
