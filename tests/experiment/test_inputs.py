"""Earlier runs, teachers and records are used only with the images and files that they were made from."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmark
from benchmark.engine.files import INPUTS_FILE
from benchmark.results.record import Record

pytestmark = pytest.mark.slow

NETWORK = "{backbone: resnet14t, args: {channels: [8, 8, 8, 8], stem_width: 8}, weights: random, dim: 8}"
TINY = [
    *("image_size=[16, 16]", "train.schedule={epochs: 1, warmup_epochs: 0}", "train.augment.pad=2"),
    *("teacher.train.schedule={epochs: 1, warmup_epochs: 0}", "train.sampler={identities: 3, images: 2}"),
    *("teacher.train.sampler={identities: 3, images: 2}", "runtime={threads: 1, amp: 'off'}"),
    *(f"teacher.network={NETWORK}", f"student={NETWORK}"),
]


def make_project(folder: Path, seed: int = 0) -> Path:
    """Write `mine.csv` and its images: four identities for training and four for testing, with two cameras."""
    random = np.random.default_rng(seed)
    rows = ["path,identity,camera,split"]
    for identity in range(8):
        for camera, split in enumerate(("query", "gallery")):
            name = f"{identity}_{camera}.png"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(folder / name)
            rows.append(f"{name},{identity},{camera},{'train' if identity < 4 else split}")
    (folder / "mine.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """Folder in which `none` ran on project/mine.csv: runs/ and boards/."""
    folder = tmp_path_factory.mktemp("done")
    make_project(folder / "project")
    benchmark.run(
        "none",
        "folder",
        settings=[*TINY, f"dataset.path={folder / 'project' / 'mine.csv'}"],
        data_root=folder / "root",
        work_dir=folder / "runs",
        leaderboards=folder / "boards",
        device="cpu",
    )
    return folder


@pytest.fixture
def run(command_line, done, tmp_path, monkeypatch):
    """`run("kd")` runs a method on `mine.csv` in the current folder, a copy of what `done` ran on."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "root"))

    def call(method: str, *arguments: str, path: str = "mine.csv"):
        settings = [part for setting in (*TINY, f"dataset.path={path}") for part in ("--set", setting)]
        places = ["--work-dir", tmp_path / "runs", "--leaderboards", tmp_path / "boards", "--device", "cpu"]
        return command_line("run", "--method", method, "--dataset", "folder", *settings, *places, *arguments)

    return call


def permute_gallery_labels(folder: Path) -> None:
    table = folder / "mine.csv"
    rows = table.read_text().splitlines()
    gallery = [row for row in rows if row.endswith("gallery")]
    labels = [row.split(",")[1] for row in gallery]
    permuted = [
        ",".join([row.split(",")[0], label, *row.split(",")[2:]])
        for row, label in zip(gallery, labels[1:] + labels[:1], strict=True)
    ]
    table.write_text("\n".join([*(row for row in rows if row not in gallery), *permuted]))


def paint_white(folder: Path) -> None:
    for path in folder.glob("*.png"):
        Image.new("RGB", (16, 16), "white").save(path)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            permute_gallery_labels,
            "4 images with another split, identity or camera: 4_1.png, 5_1.png, 6_1.png and 1 more",
        ),
        (paint_white, "16 images changed: 0_0.png, 0_1.png, 1_0.png and 13 more"),
    ],
)
def test_results_and_teachers_of_changed_data_are_refused(run, command_line, tmp_path, change, difference):
    change(tmp_path / "project")
    for method in ("none", "kd"):
        code, _, err = run(method)
        assert code == 2 and difference in err and str(tmp_path / "boards" / "records") in err
    shutil.rmtree(tmp_path / "boards")
    for method, folder in (("none", "none"), ("kd", "teacher")):
        code, _, err = run(method)
        assert code == 2 and difference in err and str(tmp_path / "runs" / "folder" / folder) in err
    assert not list(tmp_path.glob("boards/records/*.json"))


def test_time_stamps_and_places_do_not_matter(run, tmp_path, monkeypatch):
    for path in (tmp_path / "project").iterdir():
        os.utime(path, ns=(0, 0))
    assert "has the result of" in run("none").err
    (tmp_path / "project").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    code, _, err = run("none", path="moved/mine.csv")
    assert code == 0 and "has the result of" in err
    code, _, err = run("none", path="missing/mine.csv")
    assert code == 2 and "missing/mine.csv" in err


def test_two_projects_are_different_data(run, tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "other", seed=1))
    code, _, err = run("none")
    assert code == 2 and "16 images changed" in err and "give the present data a name" in err
    code, _, err = run("none", "--set", "dataset.label=other")
    assert code == 0, err
    names = {path.name.split("-none-")[0] for path in (tmp_path / "boards" / "records").glob("*-none-*.json")}
    assert names == {"folder-mine", "folder-other"}


def test_no_record_or_page_names_a_place(run, tmp_path):
    shutil.rmtree(tmp_path / "boards")
    assert run("rkd", "--cache", str(tmp_path / "packed")).code == 0
    for path in (tmp_path / "boards").rglob("*"):
        assert not path.is_file() or str(tmp_path) not in path.read_text(errors="replace"), path
    (record,) = (tmp_path / "boards" / "records").glob("*-rkd-*.json")
    recipe = Record.read(record).recipe
    options = {"path": "", "label": "mine", "closed_set": False, "background": "white", "validation_fraction": 0.0}
    assert recipe["dataset"] == {"name": "folder", **options}


def test_finished_runs_find_their_images_and_refuse_others(run, command_line, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "runs")
    assert run("none").code == 0
    (folder,) = (tmp_path / "runs" / "folder" / "none").iterdir()
    (record,) = (tmp_path / "boards" / "records").glob("*-none-*.json")
    monkeypatch.chdir(tmp_path)
    assert command_line("evaluate", "--run", folder, "--device", "cpu").code == 0
    assert command_line("inspect", folder, "--device", "cpu").code == 0
    code, _, err = command_line("reproduce", record, "--device", "cpu")
    assert code == 2 and "path=" in err
    code, out, err = command_line("reproduce", record, "--device", "cpu", "--set", "dataset.path=project/mine.csv")
    assert code == 0 and "bit-identical" in out
    code, _, err = command_line("reproduce", record, "--set", "train.schedule.epochs=2")
    assert code == 2 and "--set train.schedule.epochs=2: changes the result" in err
    paint_white(tmp_path / "project")
    for arguments in (("evaluate", "--run", folder), ("inspect", folder)):
        code, _, err = command_line(*arguments, "--device", "cpu")
        assert code == 2 and "16 images changed" in err and "--dataset folder" in err
    code, out, _ = command_line("evaluate", "--run", folder, "--dataset", "folder", "--device", "cpu")
    assert code == 0 and "mAP" in out


def test_interrupted_runs_resume_only_with_their_images(run, tmp_path):
    for path in [*(tmp_path / "runs").rglob("record.json"), *(tmp_path / "boards").rglob("*.json")]:
        path.unlink()
    code, _, err = run("none")
    assert code == 2 and "unfinished run: add --resume" in err
    (tmp_path / "runs" / "folder" / "none").rename(tmp_path / "away")
    code, _, err = run("none")
    assert code == 2 and "teacher" in err and "unfinished run: add --resume" in err
    paint_white(tmp_path / "project")
    code, _, err = run("none", "--resume")
    assert code == 2 and "its training images differ: 16 images changed" in err
    make_project(tmp_path / "project")
    assert run("none", "--resume").code == 0
    (inputs,) = (tmp_path / "runs" / "folder" / "teacher").glob(f"*/{INPUTS_FILE}")
    for content in ("", "[]", json.dumps({"training": 7})):
        inputs.write_text(content)
        code, _, err = run("kd")
        assert code == 2 and "did not record which images it used" in err


WITH_TEACHER = ("--set", "dataset.path=mine.csv", "--device", "cpu", "--gallery", "teacher")
"""Options that embed the gallery with the teacher."""


def test_a_replaced_teacher_file_is_noticed(run, command_line, tmp_path):
    (folder,) = (tmp_path / "runs" / "folder" / "teacher").iterdir()
    file = tmp_path / "teacher.pt"
    shutil.copy(folder / "checkpoints" / "last.pt", file)
    given = ("--set", f"teacher.checkpoint={file}")
    assert run("kd", *given).code == 0
    assert "has the result of" in run("kd", *given).err
    file.write_bytes(file.read_bytes() + b"\0")
    code, _, err = run("kd", *given)
    assert code == 2 and "the file at teacher.checkpoint has changed" in err
    (folder,) = (tmp_path / "runs" / "folder" / "kd").iterdir()
    code, _, err = command_line("evaluate", "--run", folder, *WITH_TEACHER)
    assert code == 2 and "is another one than" in err


def test_a_teacher_that_was_trained_again_on_other_images_is_noticed(run, command_line, tmp_path):
    (folder,) = (tmp_path / "runs" / "folder" / "none").iterdir()
    assert command_line("evaluate", "--run", folder, *WITH_TEACHER).code == 0
    (inputs,) = (tmp_path / "runs" / "folder" / "teacher").glob(f"*/{INPUTS_FILE}")
    inputs.write_text(json.dumps(json.loads(inputs.read_text()) | {"training": "0" * 64}))
    code, _, err = command_line("evaluate", "--run", folder, *WITH_TEACHER)
    assert code == 2 and "was trained again, on other images" in err


def test_suites_compare_finished_runs_with_the_images(run, command_line, tmp_path):
    settings = [part for setting in (*TINY, "dataset.path=mine.csv") for part in ("--set", setting)]
    places = ["--work-dir", tmp_path / "runs", "--leaderboards", tmp_path / "boards", "--device", "cpu"]
    suite = ("suite", "--methods", "none", "--datasets", "folder", "--dry-run", *settings, *places)
    code, out, err = command_line(*suite)
    assert code == 0 and "1 of 1 runs are finished" in out, err
    paint_white(tmp_path / "project")
    code, _, err = command_line(*suite)
    assert code == 2 and "16 images changed" in err
