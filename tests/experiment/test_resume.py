"""A run that is killed at any moment continues to the bit-identical result."""

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmark.engine.compat import load_checkpoint
from benchmark.engine.files import LAST_CHECKPOINT, read_metrics
from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.results.record import Record

pytestmark = pytest.mark.slow

KILLER = '''
"""A plugin that sends $SIGNAL to this process at call number $CALL of the function $AT.

`torch.save` is killed half way through writing its file.
"""

import importlib
import io
import os
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for processes in the background
module, path = os.environ["AT"].split(":")
owner = importlib.import_module(module)
*outer, name = path.split(".")
for part in outer:
    owner = getattr(owner, part)
original = getattr(owner, name)
calls = 0


def function(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(os.environ["CALL"]):
        if os.environ["AT"] == "torch:save":
            content, file = args
            complete = io.BytesIO()
            original(content, complete)
            file.write(complete.getvalue()[: len(complete.getvalue()) // 2])
            file.flush()
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return original(*args, **kwargs)


setattr(owner, name, function)
'''
STEP = "benchmark.engine.compat:DistillOptimWrapper.step"
STEPS = 16
"""Steps per epoch."""


@dataclass
class Killed:
    """A killed process and the files that it left."""

    code: int
    stderr: str
    work: Path

    def folder(self, name: str) -> Path:
        (folder,) = (self.work / "runs" / "glyphs" / name).iterdir()
        return folder

    def epochs(self, name: str) -> tuple[int, int]:
        """The last epoch in the metrics, and the epoch of the checkpoint."""
        folder = self.folder(name)
        rows = read_metrics(folder)
        checkpoint = folder / LAST_CHECKPOINT
        saved = load_checkpoint(checkpoint, torch.device("cpu"))["epoch"] if checkpoint.exists() else 0
        return rows[-1]["epoch"] if rows else 0, saved

    def step(self, name: str) -> int:
        """The step of the checkpoint."""
        return load_checkpoint(self.folder(name) / LAST_CHECKPOINT, torch.device("cpu"))["iter"]

    def partial_checkpoints(self, name: str) -> int:
        return len(list((self.folder(name) / LAST_CHECKPOINT.parent).glob(".last.pt.*")))

    def channels(self) -> list[int]:
        return [row["channels"] for row in read_metrics(self.folder("cdd"))]


@pytest.fixture
def kill(command, shrinking, tmp_path) -> Callable[..., Killed]:
    """`kill(STEP, 5)` starts or resumes the run of `finished` in a process that is killed at its fifth step."""
    plugin = tmp_path / "killer.py"
    plugin.write_text(KILLER)

    def run(at: str, call: int, number: signal.Signals = signal.SIGKILL) -> Killed:
        arguments = command(tmp_path, "--method", "cdd", "--resume", "--plugin", str(plugin), settings=shrinking)
        environment = os.environ | {"AT": at, "CALL": str(call), "SIGNAL": str(int(number))}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        return Killed(done.returncode, done.stderr, tmp_path)

    return run


def weights(folder: Path) -> dict[str, bytes]:
    tensors = torch.load(folder / "student.pt", weights_only=True)["weights"]
    return {name: value.contiguous().numpy().tobytes() for name, value in tensors.items()}


def assert_identical(resumed: Path, straight: Path) -> None:
    assert weights(resumed) == weights(straight)
    records = [Record.read(folder / "record.json") for folder in (resumed, straight)]
    assert records[0].fingerprint() == records[1].fingerprint()


def test_killed_at_every_stage(kill, student, command, shrinking, tmp_path):
    died = kill(STEP, STEPS + 4)
    assert (died.code, died.epochs("teacher")) == (-signal.SIGKILL, (1, 1)), died.stderr

    died = kill("benchmark.experiment.experiment:save_student", 1)  # called for the teacher first
    assert (died.code, died.epochs("teacher")) == (-signal.SIGKILL, (2, 2)), died.stderr
    assert not (died.folder("teacher") / "student.pt").exists()

    died = kill(STEP, 5)
    assert (died.folder("teacher") / "record.json").exists()
    assert (died.code, died.epochs("cdd")) == (-signal.SIGKILL, (0, 0)), died.stderr

    died = kill("torch:save", 1)  # channels were removed from the student, but no checkpoint has it yet
    assert (died.code, died.epochs("cdd"), died.partial_checkpoints("cdd")) == (-signal.SIGKILL, (1, 0), 1), died.stderr

    died = kill(STEP, STEPS + 7)  # after the first structural change
    assert (died.code, died.epochs("cdd"), died.partial_checkpoints("cdd")) == (-signal.SIGKILL, (1, 1), 0), died.stderr
    assert died.channels()[1] < died.channels()[0]

    died = kill("torch:save", 1)  # would replace a valid checkpoint
    assert (died.code, died.epochs("cdd"), died.partial_checkpoints("cdd")) == (-signal.SIGKILL, (2, 1), 1), died.stderr

    died = kill("benchmark.results.record:Record.write", 1)
    assert (died.code, died.epochs("cdd"), died.partial_checkpoints("cdd")) == (-signal.SIGKILL, (2, 2), 0), died.stderr
    assert died.channels()[2] < died.channels()[1]

    subprocess.run(
        command(tmp_path, "--method", "cdd", "--resume", settings=shrinking), capture_output=True, check=True
    )
    assert_identical(died.folder("cdd"), student)
    assert (died.folder("cdd") / "compression.svg").read_bytes() == (student / "compression.svg").read_bytes()


def test_stopped_by_a_scheduler(kill, student, command, shrinking, tmp_path):
    """By SIGTERM in the teacher's training, by SIGUSR1 and by a time limit in the student's, after any step."""
    stopped = kill(STEP, 5, signal.SIGTERM)
    assert (stopped.code, stopped.step("teacher")) == (143, 5), stopped.stderr
    advice = "run the same command with --resume to continue"
    assert stopped.stderr.splitlines()[-1] == (
        f"benchmark: stopped by SIGTERM after step 5 of 32 of the training of teacher; {advice}"
    )
    stopped = kill(STEP, 2 * STEPS - 5 + 7, signal.SIGUSR1)
    assert (stopped.code, stopped.step("cdd")) == (75, 7), stopped.stderr
    stopped = kill(STEP, STEPS - 7 + 3, signal.SIGUSR1)
    assert (stopped.code, stopped.step("cdd")) == (75, STEPS + 3), stopped.stderr

    limited = command(tmp_path, "--method", "cdd", "--resume", settings=(*shrinking, "runtime.time_limit=0:01"))
    done = subprocess.run(limited, capture_output=True, text=True)
    assert (done.returncode, stopped.step("cdd")) == (75, STEPS + 4), done.stderr
    assert "stopped by the time limit after step 20 of 32 of the training of student cdd" in done.stderr

    resume = command(tmp_path, "--method", "cdd", "--resume", settings=shrinking)
    subprocess.run(resume, capture_output=True, check=True)
    assert_identical(stopped.folder("cdd"), student)


def test_interrupted_by_the_user(kill, student, shrinking, data_root, tiny, tmp_path):
    stopped = kill(STEP, 2 * STEPS + STEPS + 7, signal.SIGINT)  # in the student's second epoch
    assert stopped.code == 130
    assert "Traceback" not in stopped.stderr
    others = [line for line in stopped.stderr.splitlines() if "  epoch " not in line]
    assert others[-1] == "benchmark: interrupted; run the same command with --resume to continue"
    assert all(line.startswith("glyphs: ") for line in others[3:-1]), "nothing but what was read of the dataset"
    assert stopped.epochs("cdd") == (1, 1)

    places = {"work_dir": tmp_path / "runs", "data_root": data_root, "device": torch.device("cpu")}
    with pytest.raises(UserError, match="has an unfinished run: add --resume"):
        Experiment(tiny("cdd", *shrinking), **places).run()
    Experiment(tiny("cdd", *shrinking), **places, resume=True).run()
    assert_identical(stopped.folder("cdd"), student)
