"""The README's code blocks work."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.model.deployed import save_student
from benchmark.model.embedder import Embedder

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line[line.index("benchmark ") :]
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if "benchmark " in line
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would be after following the README this far."""
    folder = tmp_path_factory.mktemp("readme")
    method = next(block for block in PYTHON if block.startswith("# my_method.py"))
    (folder / "my_method.py").write_text(method, encoding="utf-8")
    save_student(Embedder("resnet10t", dim=192), folder / "student.pt", (32, 32))
    (folder / "leaderboards" / "records").mkdir(parents=True)
    return folder


def run(arguments: list[str], folder: Path) -> str:
    environment = os.environ | {"BENCHMARK_DATA": str(folder / "data")}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loading_a_student_works(place: Path) -> None:
    block = next(block for block in PYTHON if "load_student" in block)
    assert run([sys.executable, "-c", block + "\nprint(tuple(embeddings.shape))"], place).strip() == "(8, 192)"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work(command: str, place: Path) -> None:
    """Runs are only prepared: training them takes minutes, and the tests of whole runs use smaller ones."""
    words = shlex.split(command, comments=True)
    if words[1] == "run" and "--dry-run" not in words:
        words.append("--dry-run")
    assert run([sys.executable, "-m", *words], place) or words[1] == "leaderboard"


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
