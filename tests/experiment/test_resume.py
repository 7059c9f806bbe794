"""Killed at any moment, a run continues to the bit-same result."""

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmark.engine.compat import load_checkpoint
from benchmark.engine.files import LAST, read_metrics
from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.results.record import Record

KILLER = '''
"""Sends $SIGNAL to this process at call number $CALL of the function $AT, or half way through what it writes."""

import importlib
import io
import os
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, a shell had it ignored
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
            whole = io.BytesIO()
            original(content, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return original(*args, **kwargs)


setattr(owner, name, function)
'''
STEP = "benchmark.engine.compat:DistillOptimWrapper.step"
STEPS = 16
"""In an epoch."""


@dataclass
class Killed:
    """What a killed process left."""

    code: int
    shown: str
    work: Path

    def folder(self, name: str) -> Path:
        (folder,) = (self.work / "runs" / "glyphs" / name).iterdir()
        return folder

    def epochs(self, name: str) -> tuple[int, int]:
        """(last epoch in the metrics, epoch of the checkpoint)"""
        folder = self.folder(name)
        last = folder / LAST
        rows = read_metrics(folder)
        saved = load_checkpoint(last, torch.device("cpu"))["epoch"] if last.exists() else 0
        return rows[-1]["epoch"] if rows else 0, saved

    def torsos(self, name: str) -> int:
        return len(list((self.folder(name) / LAST.parent).glob(".last.pt.*")))


@pytest.fixture
def kill(command, shrinking, tmp_path) -> Callable[..., Killed]:
    """`kill(STEP, 5)` starts or resumes the run of `finished`, killed at the fifth step of this process."""
    plugin = tmp_path / "killer.py"
    plugin.write_text(KILLER)

    def run(at: str, call: int, number: signal.Signals = signal.SIGKILL) -> Killed:
        arguments = command(tmp_path, "--method", "cdd", "--resume", "--plugin", str(plugin), settings=shrinking)
        environment = os.environ | {"AT": at, "CALL": str(call), "SIGNAL": str(int(number))}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        return Killed(done.returncode, done.stderr, tmp_path)

    return run


def test_killed_in_every_stage_a_run_ends_bit_for_bit_the_same(kill, finished, command, shrinking, tmp_path):
    died = kill(STEP, STEPS + 4)
    assert (died.code, died.epochs("teacher")) == (-signal.SIGKILL, (1, 1)), died.shown

    died = kill("benchmark.experiment.experiment:save_student", 1)  # the teacher's
    assert (died.code, died.epochs("teacher")) == (-signal.SIGKILL, (2, 2)), died.shown
    assert not (died.folder("teacher") / "student.pt").exists()

    died = kill(STEP, 5)
    assert (died.folder("teacher") / "record.json").exists()
    assert (died.code, died.epochs("cdd")) == (-signal.SIGKILL, (0, 0)), died.shown

    died = kill("torch:save", 1)  # rows are gone from the student, but not yet in any checkpoint
    assert (died.code, died.epochs("cdd"), died.torsos("cdd")) == (-signal.SIGKILL, (1, 0), 1), died.shown

    died = kill(STEP, STEPS + 7)  # past the first structural step
    assert (died.code, died.epochs("cdd"), died.torsos("cdd")) == (-signal.SIGKILL, (1, 1), 0), died.shown
    assert channels(died)[1] < channels(died)[0]

    died = kill("torch:save", 1)  # over a good checkpoint
    assert (died.code, died.epochs("cdd"), died.torsos("cdd")) == (-signal.SIGKILL, (2, 1), 1), died.shown

    died = kill("benchmark.results.record:Record.write", 1)
    assert (died.code, died.epochs("cdd"), died.torsos("cdd")) == (-signal.SIGKILL, (2, 2), 0), died.shown
    assert channels(died)[2] < channels(died)[1]

    whole = command(tmp_path, "--method", "cdd", "--resume", settings=shrinking)
    subprocess.run(whole, capture_output=True, check=True)
    straight = finished / "runs" / "glyphs" / "cdd" / died.folder("cdd").name
    assert tensors(died.folder("cdd")) == tensors(straight)
    assert fingerprint(died.folder("cdd")) == fingerprint(straight)
    assert (died.folder("cdd") / "compression.svg").read_bytes() == (straight / "compression.svg").read_bytes()


def test_an_interruption_is_one_line_and_can_be_resumed(kill, finished, data_root, tiny, shrinking, tmp_path):
    stopped = kill(STEP, 2 * STEPS + STEPS + 7, signal.SIGINT)  # in the student's second epoch
    assert stopped.code == 130
    assert "Traceback" not in stopped.shown
    others = [line for line in stopped.shown.splitlines() if "  epoch " not in line]
    assert others == ["benchmark: interrupted; run the same command with --resume to continue"]
    assert stopped.epochs("cdd") == (1, 1)

    recipe = tiny("cdd", *shrinking)
    places = {"work_dir": tmp_path / "runs", "data_root": data_root, "device": torch.device("cpu")}
    with pytest.raises(UserError, match="has an unfinished run: add --resume"):
        Experiment(recipe, **places).run()
    Experiment(recipe, **places, resume=True).run()
    straight = finished / "runs" / "glyphs" / "cdd" / stopped.folder("cdd").name
    assert tensors(stopped.folder("cdd")) == tensors(straight)
    assert fingerprint(stopped.folder("cdd")) == fingerprint(straight)


def channels(died: Killed) -> list[int]:
    return [row["channels"] for row in read_metrics(died.folder("cdd"))]


def fingerprint(folder: Path) -> str:
    return Record.read(folder / "record.json").fingerprint()


def tensors(folder: Path) -> dict[str, bytes]:
    weights = torch.load(folder / "student.pt", weights_only=True)["weights"]
    return {name: value.contiguous().numpy().tobytes() for name, value in weights.items()}
