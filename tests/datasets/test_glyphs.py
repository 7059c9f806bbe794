"""Rendering of the embedded dataset."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.datasets.glyphs import FACES, Glyphs, characters
from benchmark.errors import UserError

OPTIONS = {"train_identities": 30, "test_identities": 10}


def write_miniature(root, write_image) -> None:
    """Write nothing: the dataset renders itself."""


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory) -> Glyphs:
    dataset = Glyphs(tmp_path_factory.mktemp("data"), **OPTIONS)
    dataset.prepare()
    return dataset


@pytest.fixture
def copy(glyphs, tmp_path) -> Glyphs:
    """A copy that the test may damage."""
    shutil.copytree(glyphs.folder, tmp_path / glyphs.folder.name)
    return Glyphs(tmp_path, **OPTIONS)


def test_card_states_the_default_sizes(tmp_path):
    splits = Counter(name.split("/")[0] for name in Glyphs(tmp_path)._jobs())
    assert splits == {split: size.images for split, size in Glyphs.card.splits.items()}


def test_characters_with_the_same_outline_are_one_identity():
    identities = characters()
    assert len(identities) > 1900
    assert ord("A") in identities
    assert ord("\N{CYRILLIC CAPITAL LETTER A}") not in identities
    assert not {0x20, 0xA0, 0x301, 0x2500} & set(identities)
    assert all(len(drawn) >= 12 for drawn in identities.values())
    assert identities[ord("A")] == dict.fromkeys(range(len(FACES)), "A")


def test_images_are_dark_ink_on_light_ground(glyphs):
    for sample in glyphs.train[:50]:
        pixels = np.asarray(Image.open(sample.path)).astype(float)
        assert pixels.shape == (32, 32, 3)
        border = np.concatenate([pixels[0], pixels[-1]]).mean()
        assert border > 150
        assert pixels.mean(-1).min() < border - 60


def test_split_by_typeface(glyphs):
    assert {sample.camera for sample in glyphs.query} == set(Glyphs.query_faces)
    assert not {sample.camera for sample in glyphs.gallery} & set(Glyphs.query_faces)
    assert Split.of(glyphs.train).identities == 30
    assert Split.of(glyphs.gallery).identities == 10


def test_rendering_is_deterministic(glyphs, tmp_path):
    again = Glyphs(tmp_path, **OPTIONS)
    again.prepare()
    assert again.fingerprint() == glyphs.fingerprint()
    assert [path.name for path in tmp_path.glob("[!.]*")] == [again.folder.name]


def test_test_images_do_not_depend_on_the_training_identities(glyphs, tmp_path):
    other = Glyphs(tmp_path, train_identities=2, test_identities=10)
    other.prepare()
    assert other.folder.name != glyphs.folder.name
    contents = [{path.name: path.read_bytes() for path, *_ in dataset.query} for dataset in (glyphs, other)]
    assert contents[0] == contents[1]


def test_prepare_keeps_existing_images(copy):
    before = copy.folder.stat().st_mtime_ns
    copy.prepare()
    assert copy.folder.stat().st_mtime_ns == before


def test_check_names_damaged_files(copy):
    missing, changed, broken = (sample.path for sample in copy.train[:3])
    missing.unlink()
    Image.new("RGB", (32, 32)).save(changed)
    broken.write_bytes(b"not an image")
    assert not check(copy).ok
    damage = list(copy.damaged_files())
    assert [line.split()[0] for line in damage] == [f"train/{path.name}" for path in (missing, changed, broken)]
    assert damage[1].endswith("has changed")


def test_missing_manifest(copy):
    (copy.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"is damaged .* delete the folder"):
        copy.fingerprint()


def test_too_many_identities(tmp_path):
    with pytest.raises(UserError, match="3000 identities are requested"):
        Glyphs(tmp_path, 2500, 500).prepare()
    with pytest.raises(UserError, match="at least 1"):
        Glyphs(tmp_path, 0)


@pytest.mark.slow
class TestProcesses:
    @staticmethod
    def start(code: str, root) -> subprocess.Popen:
        code = f"import sys; from pathlib import Path; from benchmark.datasets.glyphs import Glyphs\n{code}"
        return subprocess.Popen([sys.executable, "-c", code, str(root)], stderr=subprocess.DEVNULL)

    def test_two_render_at_once(self, glyphs, tmp_path):
        """Each starts to write only after both have decided to render."""
        code = """
import os, time
root, jobs = Path(sys.argv[1]), Glyphs._jobs
def jobs_of_both(self):
    result = jobs(self)
    (root / f"ready-{os.getpid()}").touch()
    while len(list(root.glob("ready-*"))) < 2:
        time.sleep(0.01)
    return result
Glyphs._jobs = jobs_of_both
Glyphs(root, 30, 10).prepare()
"""
        processes = [self.start(code, tmp_path) for _ in range(2)]
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
        assert sorted(path.name for path in tmp_path.iterdir() if "ready" not in path.name) == [glyphs.folder.name]
        rendered = Glyphs(tmp_path, **OPTIONS)
        assert rendered.fingerprint() == glyphs.fingerprint()
        assert check(rendered).ok

    def test_killed_while_rendering(self, glyphs, tmp_path):
        code = """
import time
render, calls = Glyphs._render, []
def slow_render(*arguments):
    calls.append(arguments)
    if len(calls) > 100:
        time.sleep(600)
    return render(*arguments)
Glyphs._render = slow_render
Glyphs(Path(sys.argv[1]), 30, 10).prepare()
"""
        process = self.start(code, tmp_path)
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob(".*/*/*/*.png"))) < 100 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert list(tmp_path.glob(".*/*/*/*.png"))

        dataset = Glyphs(tmp_path, **OPTIONS)
        assert not dataset.folder.exists()
        with pytest.raises(UserError, match="benchmark data check glyphs"):
            _ = dataset.train
        dataset.prepare()
        assert check(dataset).ok
        assert dataset.fingerprint() == glyphs.fingerprint()


def test_data_root_that_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: Not a directory; choose another --data-root"):
        Glyphs(tmp_path / "file", train_identities=8, test_identities=4).prepare()
