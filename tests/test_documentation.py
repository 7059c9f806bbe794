"""README, CONTRIBUTING and docs/: every code block is executed, and the tables agree with the code and the records.

Commands run in this process, in a folder that looks like that of a reader who has followed the pages. Trainings are
only prepared (`--dry-run`), on a small part of glyphs; the tests of whole runs are elsewhere.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml

import benchmark
from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.evaluation import TestSet
from benchmark.experiment import experiment
from benchmark.experiment.folders import student_folder, teacher_folder
from benchmark.experiment.inputs import Inputs, describe_data
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import save_student
from benchmark.recipe import compose
from benchmark.recipe.compose import use_teacher
from benchmark.registry import DATASETS, METHODS, TEACHERS
from benchmark.results.record import Record

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ("train_identities=100", "test_identities=20")
"""Options of glyphs2 that make it small."""
SHORT = (
    *(f"dataset.{option}" for option in SMALL),
    *("train.schedule.epochs=1", "teacher.train.schedule.epochs=1"),
    *("train.sampler.identities=8", "teacher.train.sampler.identities=8"),
    *("teacher.checkpoint=null", "runtime.threads=1"),
)
"""Settings of a run that trains in seconds."""
TRAINS = "import run"
"""Marks a Python block that trains."""
CommandLine = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that the block shows, from a first line such as `# my_method.py`."""
        match = re.match(r"# (\w+\.\w+)\n", self.text)
        return match[1] if match else None

    def commands(self) -> Iterator[str]:
        """The commands of a bash block, without comments; those joined by && are separate."""
        for line in self.text.splitlines():
            yield from (" ".join(shlex.split(part, comments=True)) for part in line.split(" && "))


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        yield Block(path.name, text[: match.start()].count("\n") + 1, match[1], match[2])


BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = list(dict.fromkeys(command for block in BLOCKS if block.language == "bash" for command in block.commands()))
PYTHON = [block for block in BLOCKS if block.language == "python"]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.parent.name}_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, record: Callable[..., Record]) -> Path:
    """The folder of a reader who has followed the pages: data, runs, records and the files that blocks show."""
    folder = tmp_path_factory.mktemp("reader")
    save_image = load(ROOT / "tests" / "datasets" / "conftest.py").save_image
    market1501 = load(ROOT / "tests" / "datasets" / "test_market1501.py")
    for block in BLOCKS:
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    save_student(Embedder("resnet10t", dim=128), folder / "student.pt", (16, 16))
    shutil.copytree(ROOT / "leaderboards" / "suites", folder / "leaderboards" / "suites")
    (folder / "leaderboards" / "records").mkdir()
    for path in (ROOT / "leaderboards" / "records").glob("glyphs2-*-seed0-*.json"):
        if path.name.startswith(("glyphs2-teacher-", "glyphs2-rkd-")):
            shutil.copy(path, folder / "leaderboards" / "records")
    market1501.write_miniature(folder / "data", save_image)
    load(ROOT / "tests" / "datasets" / "test_cub200.py").write_miniature(folder / "data", save_image)
    shutil.make_archive(str(folder / "Market-1501-v15.09.15"), "zip", folder / "data" / "market1501")
    images = [f"{name}/{number}.jpg" for name in ("ada", "bob") for number in range(2)]
    rows = [f"{image},{image.split('/')[0]}\n" for image in images]
    (folder / "my_images.csv").write_text("path,identity\n" + "".join(rows), encoding="utf-8")
    shoes = [f"data/shoes/{split}/{number}/{i}.jpg" for split, number in SHOES for i in range(2)]
    folder_of_images = [f"my_images/{image}" for image in images]
    for image in (*images, *shoes, *folder_of_images):
        save_image(folder / image)
    save_embeddings(folder / "mine.npz")
    pretend_runs(folder, record)
    return folder


SHOES = (("train", 1), ("query", 2), ("gallery", 2))


def save_embeddings(path: Path) -> None:
    generator = np.random.default_rng(0)
    lists = {"query": generator.normal(size=(5, 8)), "gallery": generator.normal(size=(9, 8))}
    ids = {f"{name}_ids": np.arange(len(vectors)) % 3 for name, vectors in lists.items()}
    cameras = {f"{name}_cams": np.full(len(vectors), i) for i, (name, vectors) in enumerate(lists.items())}
    np.savez(path, **lists, **ids, **cameras)


def pretend_runs(reader: Path, record: Callable[..., Record]) -> None:
    """Write the folders of two runs and their teacher, with untrained networks."""
    runs = reader / "runs"
    settings = [*(f"dataset.{option}" for option in SMALL), *use_teacher("train")]
    kd, none = (compose(method, "glyphs2", None, settings) for method in ("kd", "none"))
    test = TestSet.from_recipe(kd, reader / "data", torch.device("cpu"))
    test.dataset.prepare()
    data = describe_data(test)
    places = (student_folder(kd, runs), student_folder(none, runs), teacher_folder(kd, runs))
    for recipe, place in zip((kd, none, kd.for_teacher()), places, strict=True):
        folder, name = place.path, place.path.parent.name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(recipe.yaml(), encoding="utf-8")
        Inputs.of(test.dataset, recipe).write(folder)
        network = Embedder("resnet10t", dim=128)
        save_student(network, folder / "student.pt", (16, 16))
        (folder / LAST_CHECKPOINT).parent.mkdir()
        torch.save({"student": network.state_dict()}, folder / LAST_CHECKPOINT)
        role = "teacher" if name == "teacher" else "student"
        record(recipe.method.name, role=role, data=data).write(folder / "record.json")
        (folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\n', encoding="utf-8")


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; plugins registered by the test are forgotten after it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BENCHMARK_DATA", str(folder / "data"))
    # The reader has the pretrained weights, and more images than the miniatures.
    monkeypatch.setattr(experiment, "require_ready", lambda trainings, dataset: [])
    monkeypatch.setattr(experiment, "require_frozen_teacher", lambda recipe, folder: None)
    registered = [(registry, dict(registry.classes)) for registry in (METHODS, DATASETS, TEACHERS) if registry.names()]
    yield folder
    for registry, classes in registered:
        registry.classes.clear()
        registry.classes.update(classes)


def arguments(command: str, reader: Path) -> list[str]:
    """The arguments of a `benchmark` command: globs and $RUN replaced, trainings reduced to a small dry run."""
    words = []
    for word in command.replace("$RUN", "runs/glyphs2/kd/seed0-*").split()[1:]:
        words.append(str(next(reader.glob(word)).relative_to(reader)) if "*" in word else word)
    if words[0] in ("run", "suite"):
        words += [] if "--dry-run" in words else ["--dry-run"]
    glyphs = {"run", "suite", "data"} & {words[0]} and "glyphs2" in words
    prefix = "" if words[0] == "data" else "dataset."
    return words + [word for option in SMALL if glyphs for word in ("--set", prefix + option)]


def execute(command: str, reader: Path, command_line: CommandLine) -> None:
    """Run a `benchmark` command in this process."""
    words = arguments(command, reader)
    root = ("--data-root", reader / "prepared") if "prepare" in words else ()
    code, out, error = command_line(*words, *root)
    # A miniature does not have the published counts: a check reports that and exits with 1.
    differs = words[0] == "data" and "market1501" in words
    assert code == int(differs), error
    assert "expected" in out if differs else out or words[0] == "leaderboard"


def verify(words: list[str]) -> None:
    """Check a command of another program: that what it names exists."""
    tox = ConfigParser()
    tox.read(ROOT / "tox.ini")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    match words:
        case ["pip", "install", *options]:
            for option in options:
                for extra in re.findall(r"\[(.*)\]", option):
                    assert set(extra.split(",")) <= set(project["optional-dependencies"])
        case ["tox", "-e", name]:
            assert f"testenv:{name}" in tox
        case ["python", str(script), *_] if script.endswith(".py"):
            assert (ROOT / script).is_file()
        case ["pytest", *options]:
            for option in options:
                assert not option.startswith("tests") or (ROOT / option).exists()
        case _:
            known = ("tox", "git clone", "cd", "python -m venv", ". .venv", "pre-commit install", "RUN=")
            assert " ".join(words).startswith(known), f"{' '.join(words)}: unknown program"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.slow if "run --method cdd --dataset market1501" in command else ())
        for command in COMMANDS
        if "reproduce" not in command
    ],
)
def test_commands(command: str, reader: Path, command_line: CommandLine) -> None:
    command = re.sub(r"^torchrun .* -m benchmark -- ", "benchmark ", command)
    if command.startswith("benchmark "):
        execute(command, reader, command_line)
    else:
        verify(command.split())


@pytest.mark.slow
@pytest.mark.parametrize("line", [command for command in COMMANDS if "reproduce" in command])
def test_reproducing_a_record(
    line: str, reader: Path, finished: Path, data_root: Path, command_line: CommandLine
) -> None:
    record = next((finished / "boards" / "records").glob("*-cdd-*"))
    words = line.replace("leaderboards/records/FILE", str(record)).split()[1:]
    code, out, error = command_line(*words, "--data-root", data_root)
    assert code == 0, error
    assert "bit-identical" in out


def test_first_command_in_a_process_of_its_own(reader: Path) -> None:
    command = next(command for command in COMMANDS if command.startswith("benchmark run"))
    words = [sys.executable, "-m", *["benchmark", *arguments(command, reader)]]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "student: " in done.stdout


@pytest.mark.slow
def test_first_python_block_in_a_process_of_its_own(reader: Path) -> None:
    block = PYTHON[0].text + "\nprint(tuple(embeddings.shape))"
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mAP, recall = map(float, done.stdout.splitlines()[0].split())
    assert 0.05 < mAP < 0.2  # of ten identities, by chance
    assert 0 < recall < 1
    assert done.stdout.splitlines()[1] == "(8, 128)"


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{block.page}:{block.line}", marks=pytest.mark.slow if TRAINS in block.text else ())
        for block in PYTHON
    ],
)
def test_python_blocks(block: Block, reader: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if TRAINS in block.text:
        run = partial(benchmark.run, data_root=data_root, device="cpu")
        monkeypatch.setattr(
            benchmark,
            "run",
            lambda *names, settings=(), **options: run(*names, settings=[*settings, *SHORT], **options),
        )
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {"__name__": f"block_{block.line}"})


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_languages_of_blocks(block: Block) -> None:
    match block.language:
        case "yaml":
            assert yaml.safe_load(block.text)
            assert any(block.file and block.file in command for command in COMMANDS), "no command uses this file"
        case "toml":
            assert tomllib.loads(block.text)
        case language:
            assert language in ("bash", "python", "text")


@pytest.mark.slow
def test_method_of_the_readme_trains(reader: Path, data_root: Path, command_line: CommandLine) -> None:
    words = ["run", "--plugin", "my_method.py", "--method", "cosine", "--dataset", "glyphs2", "--data-root", data_root]
    code, out, error = command_line(*words, *(word for setting in SHORT for word in ("--set", setting)))
    assert code == 0, error
    assert "cosine on glyphs2" in out


def test_adding_a_method_takes_twenty_lines() -> None:
    readme, extending = (block.text for block in PYTHON if block.file == "my_method.py")
    assert readme == extending
    code = re.sub(r'    """.*?"""\n', "", readme, flags=re.DOTALL)
    assert len([line for line in code.splitlines()[1:] if line.strip()]) <= 20


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130
    assert "Thirty-nine methods" in README
    assert len(METHODS.names()) == 39, "the README states the number of methods"


def table(text: str, first_column: str) -> list[dict[str, str]]:
    """The rows of the Markdown table whose first column has this header."""
    lines = text[text.index(f"| {first_column} ") :].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_results_in_the_readme(committed_files: Path) -> None:
    page = (committed_files / "leaderboards" / "glyphs2.md").read_text(encoding="utf-8")
    budgets = page[page.index("## At each budget") :]
    assert table(README, "method") == table(budgets, "method")
    assert f"The teacher has an mAP of {table(page, 'method')[0]['mAP']}" in README


def test_results_in_the_findings(committed_files: Path) -> None:
    page = (committed_files / "leaderboards" / "glyphs2.md").read_text(encoding="utf-8")
    measured = {row["method"]: row for row in table(page[page.index("## At each budget") :], "method")}
    findings = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    for method, start in (("none", "| `none`, 90 epochs"), ("kd", "| `kd`, 90 epochs"), ("cdd", "| `cdd` ")):
        (line,) = (line for line in findings.splitlines() if line.startswith(start))
        shown = [cell.strip() for cell in line.split("|")[2:-1]]
        assert shown == [measured[f"`{method}`"][f"mAP at {n} % of the MACs"].split()[0] for n in (42, 30, 20)]


@pytest.mark.parametrize("name", DATASETS.names())
def test_table_of_datasets(name: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    row = next(row for row in table(page, "name") if row["name"] == f"`{name}`")
    dataset = DATASETS.find(name)(tmp_path)
    splits = ["train", "query"] if dataset.protocol.query_in_gallery else ["train", "query", "gallery"]
    assert ("gallery" in splits) == (row["gallery"] != "itself")
    for split in splits:
        images = getattr(dataset.card.splits.get(split), "images", None)
        assert images is None or row[split].startswith(f"{images:,}")
    if dataset.card.splits:
        assert f"R@{', '.join(map(str, dataset.protocol.recall_at))}" in row["protocol"]
        cameras = max(split.cameras or 0 for split in dataset.card.splits.values())
        assert row["cameras"] == (str(cameras) if cameras > 1 else "-")
        assert ("camera rule" in row["protocol"]) == dataset.protocol.camera_rule


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_files_of_community_standards() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "new_method", "new_record"]
    for form in forms:
        assert {"name", "description", "body"} <= set(yaml.safe_load(form.read_text(encoding="utf-8")))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert {"run": ".ci/run"} in workflow["jobs"]["checks"]["steps"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for version in workflow["jobs"]["checks"]["strategy"]["matrix"]["python"]:
        assert f"Programming Language :: Python :: {version}" in project["classifiers"]
