"""Fixtures shared by all tests."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from filelock import FileLock

import benchmark.engine  # noqa: F401  # before any test imports mmengine: see there
from benchmark.results.record import Record

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def _quick_latencies():
    """Stop the measurement of a latency early: records in tests need one, but not an exact one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.model.latency._MAX_SECONDS", 0.02)
        yield


@pytest.fixture
def onnx_once(monkeypatch):
    """Let the formats that are converted from ONNX share the export of a network, which takes most of their time."""
    from benchmark.deployment.runtimes import Onnx
    from benchmark.model.serialize import weights_hash

    export, content = Onnx.write, {}

    def write(network, example, folder) -> None:
        key = (weights_hash(network.network), network.inside)
        if key not in content:
            export(network, example, folder)
            content[key] = (folder / Onnx.file).read_bytes()
        (folder / Onnx.file).write_bytes(content[key])

    monkeypatch.setattr(Onnx, "write", write)


def pytest_collection_modifyitems(items):
    """Begin with the kill campaigns, which take minutes and would leave other workers idle; skip what needs a GPU."""
    items.sort(key=lambda item: item.path.name != "test_kill.py")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_terminal_summary(terminalreporter):
    """Print the number of rounds of tests/fuzz, whose conftest.py the main process of xdist does not load."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    calls = [report for report in reports if getattr(report, "when", None) == "call"]
    count = sum(value for report in calls for name, value in report.user_properties if name == "fuzz_rounds")
    if count:
        terminalreporter.write_line(f"fuzz: {count:,} mutated inputs")


@dataclass
class Golden:
    """Values computed with the authors' original code: one file of tests/golden, see its README.md."""

    name: str
    arrays: Any
    meta: dict[str, Any]

    @property
    def cases(self) -> list[str]:
        return [str(name) for name in self.arrays["cases"]]

    def inputs(self, case: str) -> dict[str, torch.Tensor]:
        """Return the input arrays of a loss case by name."""
        prefix = f"in/{self.meta[case]['inputs']}/"
        return {
            key.removeprefix(prefix): torch.from_numpy(self.arrays[key])
            for key in self.arrays.files
            if key.startswith(prefix)
        }

    def check(self, case: str, loss: torch.Tensor, **gradients: torch.Tensor) -> None:
        """Compare a loss and its gradients (`student=...` with `grad_student`) at the tolerances of the file."""
        meta = self.meta[case]
        expected = float(self.arrays[f"{case}/loss"])
        error, tolerance = abs(loss.item() - expected), 1e-12 + meta["rtol_loss"] * abs(expected)
        assert error <= tolerance, f"{self.name}, case {case}: loss {loss.item()!r} instead of {expected!r}"
        for name, gradient in gradients.items():
            key = f"{case}/grad_{name}"
            if key not in self.arrays.files:  # the reference's own gradient is meaningless there
                continue
            reference = self.arrays[key]
            error = np.abs(gradient.numpy() - reference).max()
            tolerance = 1e-12 + meta["rtol_grad"][name] * np.abs(reference).max()
            assert error <= tolerance, (
                f"{self.name}, case {case}: gradient of {name} is off by {error}, over {tolerance}"
            )


@cache
def load_golden(name: str) -> Golden:
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    meta = json.loads(str(arrays["meta"])) if "meta" in arrays.files else {}
    return Golden(name, arrays, meta)


@pytest.fixture
def golden():
    """`golden("kd")` loads tests/golden/kd.npz."""
    return load_golden


TINY = """
version: 1
seed: 0
method: {name: none}
image_size: [32, 32]
dataset: {name: glyphs, train_identities: 40, test_identities: 20}
teacher:
  network: &network
    {backbone: resnet14t, args: {channels: [8, 8, 16, 16], stem_width: 8}, stem: no_pool, last_stride: 2, dim: 16,
    head: cosine, weights: random}
  train: &train
    task: {triplet: {feature: embedding, normalize: true}}
    optimizer: {lr: 0.05, nesterov: true}
    schedule: {epochs: 2, warmup_epochs: 0, constant_until: 1}
    sampler: {identities: 8, images: 4}
    augment: {pad: 2, pad_mode: edge, flip: 0, erase: 0}
student: *network
train: *train
evaluate: {batch_size: 128}
runtime: {threads: 1, amp: "off"}
"""
"""A recipe that trains in a second. Because of its key `version`, it replaces the recipes of dataset and method."""

SHRINKING = ("method.lasso=0.006", "method.threshold=0.95", "method.reset_from=0.1", "method.ratio=0.9")
"""CDD settings by which channels are masked and removed after each of two epochs."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """`shared("name", make)` is a folder that `make(folder)` fills once, whatever the number of xdist workers."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def build(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker in which `make` failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return build


@pytest.fixture(scope="session")
def data_root(shared):
    """A data root with the images of `tiny_config`'s dataset."""
    from benchmark.datasets.glyphs import Glyphs

    return shared("data", lambda folder: Glyphs(folder, train_identities=40, test_identities=20).prepare())


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """A file for `--config` that gives a run of seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny(tiny_config):
    """`tiny("kd", "train.schedule.epochs=1")` composes the recipe of a run of seconds."""
    from benchmark.recipe import compose

    return lambda method, *settings: compose(method, "glyphs", tiny_config, settings)


@pytest.fixture(scope="session")
def shrinking():
    return SHRINKING


@pytest.fixture(scope="session")
def command(data_root, tiny_config):
    """`command(work, "--method", "kd", settings=[...])` is the command line of a tiny run, for `subprocess`."""

    def build(work: Path, *arguments: str, settings=()) -> list[str]:
        places = {"--work-dir": work / "runs", "--leaderboards": work / "boards", "--data-root": data_root}
        where = [str(part) for place in places.items() for part in place]
        changes = [part for setting in settings for part in ("--set", setting)]
        run = [sys.executable, "-m", "benchmark", "run", "--config", str(tiny_config), "--device", "cpu"]
        return [*run, *where, *arguments, *changes]

    return build


@pytest.fixture(scope="session")
def finished(tmp_path_factory, shared, command):
    """Folder in which the command line ran cdd: runs/, boards/, and what it printed in out.txt and err.txt."""

    def make(work: Path) -> None:
        run = command(work, "--method", "cdd", settings=SHRINKING)
        done = subprocess.run(run, capture_output=True, text=True, cwd=work)
        assert done.returncode == 0, done.stderr
        (work / "out.txt").write_text(done.stdout)
        (work / "err.txt").write_text(done.stderr)

    copy = tmp_path_factory.mktemp("finished")  # tests add runs to it
    return shutil.copytree(shared("finished-run", make), copy, dirs_exist_ok=True)


@pytest.fixture
def student(finished, tiny) -> Path:
    """The run folder of the student of `finished`."""
    from benchmark.experiment.folders import student_folder

    return student_folder(tiny("cdd", *SHRINKING), finished / "runs").path


@pytest.fixture
def teacher(finished, tiny) -> Path:
    """The run folder of the teacher of `finished`."""
    from benchmark.experiment.folders import teacher_folder

    return teacher_folder(tiny("cdd", *SHRINKING), finished / "runs").path


class Output(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def command_line(capsys, monkeypatch):
    """`command_line("list", "methods")` runs `benchmark list methods` in this process."""
    from benchmark import cli
    from benchmark.registry import DATASETS, METHODS, TEACHERS

    def run(*arguments: object) -> Output:
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        return Output(int(ended.value.code or 0), *capsys.readouterr())

    METHODS.discover()
    DATASETS.discover()
    TEACHERS.discover()
    before = [(registry, dict(registry.classes)) for registry in (METHODS, DATASETS, TEACHERS)]
    yield run
    for registry, classes in before:  # forget what plugins have registered
        registry.classes.clear()
        registry.classes.update(classes)


@dataclass
class Trained:
    """What `train_tiny` has trained, and the first teacher."""

    student: Any
    method: Any
    teacher: Any
    selection: Any


@pytest.fixture
def train_tiny(data_root):
    """`train_tiny(recipe, folder)` trains from random weights with the real runner and returns what it trained."""
    from benchmark.data.loaders import Loading
    from benchmark.datasets.glyphs import Glyphs
    from benchmark.engine.train import train
    from benchmark.evaluation import TestSet
    from benchmark.model.embedder import Embedder
    from benchmark.model.residual_blocks import build
    from benchmark.registry import METHODS

    def initialize(settings, seed: int) -> Embedder:
        torch.manual_seed(seed)
        return build(**settings.model_dump(exclude={"weights"}), identities=40)

    def run(recipe, folder: Path, resume: bool = False, method=None) -> Trained:
        torch.set_num_threads(1)
        data = Glyphs(data_root, **recipe.dataset.arguments)
        method = method or METHODS.find(recipe.method.name)(**recipe.method.arguments)
        student = initialize(recipe.student, recipe.seed)
        teachers = [initialize(each.network, 100 + number) for number, each in enumerate(recipe.teachers)]
        selection = train(
            student,
            teachers if method.needs.teacher else None,
            method,
            recipe=recipe,
            test=TestSet(data, Loading(recipe.image_size, recipe.runtime.workers), recipe.evaluate.batch_size),
            folder=folder,
            resume=resume,
            title="tiny",
            outputs=folder.parent / "teacher-outputs",
        )
        return Trained(student, method, teachers[0], selection)

    return run


@pytest.fixture
def full_disk():
    """`with full_disk(1000):` limits the size of files to 1000 bytes, which fails as a full disk does."""
    import resource  # Unix only

    @contextmanager
    def limit(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


def _cost(macs: float, device: str = "cpu", threads: int = 2) -> dict[str, Any]:
    return {
        "parameters": int(macs // 20),
        "macs": int(macs),
        "flops": 2 * int(macs),
        "image_size": [64, 64],
        "latency_ms": {"1": macs / 1e7, "64": macs / 2e5},
        "peak_memory_mb": 120.5,
        "device": device,
        "threads": threads,
    }


def _scores(mAP: float) -> dict[str, Any]:
    recall = {"1": min(1.0, mAP + 0.1), "5": min(1.0, mAP + 0.2), "10": min(1.0, mAP + 0.25)}
    return {"mAP": mAP, "mINP": mAP / 2, "recall": recall, "queries": 1500, "skipped": 3}


def _made_up_hash(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _record(
    method: str = "cdd",
    *,
    role: str = "student",
    dataset: str = "glyphs",
    seed: int = 0,
    mAP: float = 0.72,
    macs: float = 22e6,
    asymmetric: float | None = None,
    variant: str = "default",
    **changes: Any,
) -> Record:
    """Return a valid record. `variant` becomes part of the recipe, and `changes` replace top-level fields."""
    recipe = {"method": {"name": method}, "seed": seed, "variant": variant}
    recipe_hash = _made_up_hash(dataset, method, role, seed, variant)
    student = role == "student"
    content: dict[str, Any] = {
        "role": role,
        "id": Record.make_id(recipe_hash, role),
        "dataset": dataset,
        "method": method,
        "seed": seed,
        "recipe_hash": recipe_hash,
        "recipe": recipe,
        "created": "2030-01-02T03:04:05Z",
        "commit": None,
        "data": {
            "fingerprint": "f" * 64,
            "splits": {
                name: {"images": images, "identities": 500, "cameras": 16}
                for name, images in (("train", 14000), ("query", 1500), ("gallery", 5500))
            },
            "protocol": {"camera_rule": True, "query_in_gallery": False, "recall_at": [1, 5, 10]},
            "versions": {"matplotlib": "3.10.0"},
        },
        "network": {
            "name": "resnet26 32-64-128" if student else "resnet26 64-128-256",
            "embedding": 128,
            "cost": _cost(macs),
            "weights": "a" * 64,
        },
        "teacher": {
            "record": Record.make_id(_made_up_hash(dataset, "none", "teacher", 0, "default"), "teacher"),
            "network": "resnet26 64-128-256",
            "cost": _cost(60e6),
            "scores": _scores(0.735),
        }
        if student
        else None,
        "scores": {
            "symmetric": _scores(mAP),
            "asymmetric": None if asymmetric is None else _scores(asymmetric),
            "asymmetric_reason": "embedding sizes differ (128 and 256)" if asymmetric is None else None,
        },
        "saved": {
            "parameters": 1 - macs / 60e6,
            "macs": 1 - macs / 60e6,
            "ceiling_parameters": None,
            "ceiling_macs": None,
        }
        if student
        else None,
        "deploy": {"max_abs_difference": 3e-6, "images": 64},
        "budget": None,
        "environment": {
            "python": "3.11.7",
            "torch": "2.9.0",
            "torchvision": "0.24.0",
            "timm": "1.0.20",
            "mmengine": "0.10.7",
            "numpy": "2.0.0",
            "platform": "Linux",
            "device": "cpu",
            "threads": 2,
            "precision": "float32",
        },
        "timing": {"train_seconds": 200.0, "evaluate_seconds": 12.0},
    }
    return Record.model_validate(content | changes)


@pytest.fixture(scope="session")
def committed_files(tmp_path_factory):
    """The committed files of the repository: a run of its reader adds records to the leaderboards and changes pages."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return root
    folder = tmp_path_factory.mktemp("committed")
    subprocess.run(["git", "-C", root, "checkout-index", "--all", f"--prefix={folder}/"], check=True)
    return folder


@pytest.fixture(scope="session")
def record():
    """`record("kd", seed=1)` returns a valid record with invented values."""
    return _record
