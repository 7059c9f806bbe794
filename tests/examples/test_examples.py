"""The scripts in examples/."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if path.is_file()} == {
        "score_embeddings",
        "distill_own_folder",
        "search_own_folder",
        "slurm",
    }


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (2, False)])
def test_job_of_a_scheduler(code: int, requeued: bool, tmp_path: Path) -> None:
    """The signal of the scheduler reaches the run, whose exit code decides whether the job is queued again."""
    run = (
        "trap 'exit 75' USR1; for _ in $(seq 200); do kill -USR1 $PPID; sleep 0.1; done"
        if code == 75
        else f"exit {code}"
    )
    for name, script in (("benchmark", run), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    done = subprocess.run(["bash", EXAMPLES / "slurm.sh"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "requeue 17\n" if requeued else "")


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


def save_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for identity in range(8):
        (folder / f"{identity}").mkdir(parents=True)
        pattern = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        for number in range(4):
            image = Image.fromarray(pattern).resize((32 + number, 32))  # not four times the same file
            image.save(folder / f"{identity}" / f"{number}.png")


@pytest.mark.slow
def test_from_installation_to_a_search_page(tmp_path: Path) -> None:
    """The commands of the script, with stand-ins for `pip` and for the installed `benchmark`."""
    save_images(tmp_path / "images")
    programs = {"pip": 'echo "$@" > installed', "benchmark": f'exec {sys.executable} -m benchmark "$@"'}
    for name, line in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    network = {"backbone": "resnet10t", "weights": "random", "last_stride": 2}
    train = {
        "schedule": {"epochs": 1, "warmup_epochs": 0, "constant_until": 1},
        "sampler": {"identities": 2, "images": 4},
    }
    recipe = {
        "image_size": [32, 32],
        "teacher": {"network": network, "train": train},
        "student": network,
        "train": train,
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))

    query = tmp_path / "images" / "7" / "0.png"
    script = EXAMPLES / "search_own_folder.sh"
    done = subprocess.run(
        [script, tmp_path / "images", query, "--config", "small.yaml", "--device", "cpu"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "BENCHMARK_DATA": str(tmp_path / "data"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed").read_text() == "install .[ann,onnx]\n"
    assert len(list(tmp_path.glob("runs/folder/kd/seed0-*/exports/onnx/student.onnx"))) == 1
    page = (tmp_path / "search.html").read_text()
    assert page.count("<li") == 20 and re.search(r"rank 1, similarity 1\.000: 7/\d\.png", page)
    commands = [line for line in script.read_text().splitlines() if line.startswith(("pip", "benchmark"))]
    assert len(commands) <= 10


@pytest.mark.slow
def test_distilling_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_images(tmp_path / "images")
    small = ["--teacher", "resnet10t", "--student", "resnet10t", "--weights", "random", "--size", "32"]
    short = ["--epochs", "1", "--identities", "2", "--work-dir", str(tmp_path / "runs")]
    records = load("distill_own_folder").main([str(tmp_path / "images"), *small, *short])
    assert [record.method for record in records] == ["none", "kd"]
    assert all(record.dataset == "folder" for record in records)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["teacher", "none", "kd"]
