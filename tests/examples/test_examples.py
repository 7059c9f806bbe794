"""The scripts in examples/."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"score_embeddings", "distill_own_folder"}


@pytest.mark.parametrize("cameras", [False, True])
def test_scoring_embeddings(cameras: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("score_embeddings")
    arrays = example.random_arrays(queries=30, images=100)
    if not cameras:
        arrays = {name: array for name, array in arrays.items() if not name.endswith("_cams")}
    np.savez(tmp_path / "mine.npz", **arrays)
    example.main([str(tmp_path / "mine.npz"), *(["--cameras"] if cameras else [])])
    scores = example.score(arrays, cameras)
    assert 0.1 < scores.mAP < 1
    assert f"mAP  {100 * scores.mAP:6.2f} %" in capsys.readouterr().out


def test_scoring_random_embeddings(capsys: pytest.CaptureFixture[str]) -> None:
    load("score_embeddings").main([])
    assert "100 queries" in capsys.readouterr().out


@pytest.mark.slow
def test_distilling_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for identity in range(8):
        (tmp_path / "images" / f"{identity}").mkdir(parents=True)
        pattern = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        for number in range(4):
            Image.fromarray(pattern).resize((32, 32)).save(tmp_path / "images" / f"{identity}" / f"{number}.png")
    small = ["--teacher", "resnet10t", "--student", "resnet10t", "--weights", "random", "--size", "32"]
    short = ["--epochs", "1", "--identities", "2", "--work-dir", str(tmp_path / "runs")]
    records = load("distill_own_folder").main([str(tmp_path / "images"), *small, *short])
    assert [record.method for record in records] == ["none", "kd"]
    assert all(record.dataset == "folder" for record in records)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["teacher", "none", "kd"]
