"""The README's code blocks work."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmark.experiment.folders import RunFolders
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import save_student
from benchmark.recipe import compose
from benchmark.registry import DATASETS, METHODS
from benchmark.results.record import Record

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line[line.index("benchmark ") :]
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if "benchmark " in line
]

_SPEC = importlib.util.spec_from_file_location("miniatures", Path(__file__).parent / "datasets" / "conftest.py")
assert _SPEC and _SPEC.loader
MINIATURES = importlib.util.module_from_spec(_SPEC)
sys.modules["miniatures"] = MINIATURES
_SPEC.loader.exec_module(MINIATURES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, record: Callable[..., Record]) -> Path:
    """Where a reader would be after following the README this far."""
    folder = tmp_path_factory.mktemp("readme")
    method = next(block for block in PYTHON if block.startswith("# my_method.py"))
    (folder / "my_method.py").write_text(method, encoding="utf-8")
    save_student(Embedder("resnet10t", dim=192), folder / "student.pt", (32, 32))
    (folder / "leaderboards" / "records").mkdir(parents=True)
    market = MINIATURES.tests_of("market1501").miniature
    market(folder / "data", MINIATURES.save_picture)
    shutil.make_archive(str(folder / "Market-1501-v15.09.15"), "zip", folder / "data" / "market1501")
    images = [f"{name}/{number}.jpg" for name in ("ada", "bob") for number in range(2)]
    for image in images:
        MINIATURES.save_picture(folder / image)
    rows = [f"{image},{image.split('/')[0]}\n" for image in images]
    (folder / "my_images.csv").write_text("path,identity\n" + "".join(rows), encoding="utf-8")
    pretend_runs(folder / "runs", record)
    generator = np.random.default_rng(0)
    lists = {"query": generator.normal(size=(5, 8)), "gallery": generator.normal(size=(9, 8))}
    ids = {f"{name}_ids": np.arange(len(vectors)) % 3 for name, vectors in lists.items()}
    cameras = {f"{name}_cams": np.full(len(vectors), i) for i, (name, vectors) in enumerate(lists.items())}
    np.savez(folder / "mine.npz", **lists, **ids, **cameras)
    return folder


def pretend_runs(runs: Path, record: Callable[..., Record]) -> None:
    """The folders of two runs and their teacher on a few glyphs; that they learned nothing does not matter here."""
    few = ["dataset.train_identities=40", "dataset.test_identities=20"]
    kd, none = (compose(method, "glyphs", None, few) for method in ("kd", "none"))
    folders = RunFolders(runs, DATASETS.find("glyphs")(runs, **kd.dataset.arguments))
    for made, name in ((kd, "kd"), (none, "none"), (kd.for_teacher(), "teacher")):
        folder = folders.folder(made, name)
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(made.yaml(), encoding="utf-8")
        save_student(Embedder("resnet10t", dim=192), folder / "student.pt", (32, 32))
        record(made.method.name, role="teacher" if name == "teacher" else "student").write(folder / "record.json")
        (folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\n', encoding="utf-8")


def run(arguments: list[str], folder: Path, root: str = "data", miniature: bool = False) -> str:
    """What a command prints; a check of a miniature, which has not the published counts, says so and no more."""
    environment = os.environ | {"BENCHMARK_DATA": str(folder / root)}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == int(miniature), done.stderr
    assert ("expected" in done.stdout) or not miniature
    return done.stdout


def test_evaluating_alone_works(place: Path) -> None:
    block = next(block for block in PYTHON if "benchmark.retrieval" in block)
    printed = run([sys.executable, "-c", block], place)
    mAP, *recall = map(float, printed.split("[")[0].replace("tensor(", "").split())
    assert 0.05 < mAP < 0.2 and 0 < recall[0] < recall[1] <= 1  # of ten identities, by chance


def test_loading_a_student_works(place: Path) -> None:
    block = next(block for block in PYTHON if "load_student" in block)
    assert run([sys.executable, "-c", block + "\nprint(tuple(embeddings.shape))"], place).strip() == "(8, 192)"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work(command: str, place: Path) -> None:
    """Runs are only prepared: training them takes minutes, and the tests of whole runs use smaller ones."""
    found = {"$RUN": "runs/glyphs/kd/*"}
    words = [
        str(next(place.glob(found.get(word, word)))) if word in found or "*" in word else word
        for word in shlex.split(command, comments=True)
    ]
    if words[1] in ("run", "suite") and "--dry-run" not in words:
        words.append("--dry-run")
    root = "prepared" if "prepare" in words else "data"
    checks = "market1501" in words and words[1] == "data"
    assert run([sys.executable, "-m", *words], place, root, checks) or words[1] == "leaderboard"


@pytest.mark.parametrize("name", DATASETS.names())
def test_the_table_of_datasets_says_what_their_cards_say(name: str, tmp_path: Path) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    dataset = DATASETS.find(name)(tmp_path)
    cells = dict(zip(("train", "query", "gallery"), [cell.strip() for cell in row.split("|")[2:5]], strict=True))
    if dataset.protocol.query_in_gallery:
        assert cells.pop("gallery") == "itself"
    for split, cell in cells.items():
        images = getattr(dataset.card.splits.get(split), "images", None)
        assert images is None or cell.startswith(f"{images:,}")
    if dataset.card.splits:
        assert f"R@{', '.join(map(str, dataset.protocol.recall_at))}" in row
        cameras = max(split.cameras or 0 for split in dataset.card.splits.values())
        assert [cell.strip() for cell in row.split("|")][5] == (str(cameras) if cameras > 1 else "-")
        assert ("other cameras" in row) == dataset.protocol.camera_rule


def test_the_table_of_methods_names_each_of_them() -> None:
    section = README.split("## Methods")[1].split("## Datasets")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert named == set(METHODS.names())
    assert "Thirty" in section
    assert len(METHODS.names()) == 30, "say so in the README"


def test_the_method_of_the_readme_trains(place: Path) -> None:
    small = [
        *("dataset.train_identities=40", "dataset.test_identities=20", "train.schedule.epochs=1"),
        *("teacher.train.schedule.epochs=1", "train.sampler.identities=8", "teacher.train.sampler.identities=8"),
    ]
    settings = [word for setting in small for word in ("--set", setting)]
    words = ["run", "--plugin", "my_method.py", "--method", "cosine", "--dataset", "glyphs", "--work-dir", "runs"]
    assert "cosine" in run([sys.executable, "-m", "benchmark", *words, *settings], place)


def test_adding_a_method_takes_twenty_lines() -> None:
    method = next(block for block in PYTHON if block.startswith("# my_method.py"))
    assert len([line for line in method.splitlines()[1:] if line.strip()]) <= 20
