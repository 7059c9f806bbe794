"""`benchmark suite`: many runs, whatever becomes of each."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.engine.train import LAST
from benchmark.results.store import load_records

BROKEN = '''
"""A method that fails; a line in $WRITTEN for every record that is written, and in $PARENTS for who starts a run."""

import os
import sys
from pathlib import Path

from benchmark.method import Method
from benchmark.model import cost
from benchmark.registry import METHODS
from benchmark.results.record import Record


@METHODS.register_module()
class broken(Method):
    """Fails."""

    def loss(self, student, teacher, batch):
        raise RuntimeError("this method is broken")


write = Record.write


def written(self, path):
    if path.name == "record.json":
        with Path(os.environ["WRITTEN"]).open("a") as file:
            file.write(f"{path.parent.parent.name} {self.seed}\\n")
    return write(self, path)


if sys.argv[1] == "run":
    with Path(os.environ["PARENTS"]).open("a") as file:
        file.write(f"{os.getppid()}\\n")
    Record.write = written
else:
    cost.latency = lambda *_: {1: 123.0, 64: 456.0}
'''


@pytest.fixture
def suite(tmp_path, data_root, tiny_config):
    """`suite("--methods", "none,kd")` starts `benchmark suite` of tiny runs in a process."""
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    places = {"--work-dir": tmp_path / "runs", "--leaderboards": tmp_path / "boards", "--data-root": data_root}
    options = [str(part) for place in places.items() for part in place]
    fixed = ["--datasets", "glyphs", "--config", str(tiny_config), "--device", "cpu", "--plugin", str(plugin)]

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark", "suite", *arguments, *fixed, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {name: str(tmp_path / f"{name.lower()}.txt") for name in ("WRITTEN", "PARENTS")},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return start


def written(tmp_path: Path) -> Counter[str]:
    return Counter((tmp_path / "written.txt").read_text().splitlines())


def ids(tmp_path: Path) -> list[tuple[str, str, int]]:
    return [(record.role, record.method, record.seed) for record in load_records(tmp_path / "boards" / "records")]


def test_a_suite_goes_on_where_a_run_fails_and_does_not_do_twice_what_is_done(suite, tmp_path):
    process = suite("--methods", "none,broken,kd", "--seeds", "0", "--jobs", "2")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "0 of 3 runs have a record; 3 to do" in out
    assert "broken on glyphs, seed 0 FAILED: exit status 1: RuntimeError: this method is broken" in out
    assert "2 runs in" in out and "1 failed" in out
    assert written(tmp_path) == {"teacher 0": 1, "none 0": 1, "kd 0": 1}  # one teacher, though two wanted it at once
    assert sorted(ids(tmp_path)) == [("student", "kd", 0), ("student", "none", 0), ("teacher", "none", 0)]
    assert (tmp_path / "boards" / "README.md").exists()
    latencies = [record.network.cost.latency_ms for record in load_records(tmp_path / "boards" / "records")]
    assert latencies == 3 * [{"1": 123.0, "64": 456.0}]  # by the suite itself, when the runs had ended
    assert not (tmp_path / "runs" / "suite" / "beside").exists()

    process = suite("--methods", "none,kd", "--seeds", "0,1", "--dry-run")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "2 of 4 runs have a record; 2 to do" in out
    commands = [line for line in out.splitlines() if line.startswith("benchmark run")]
    assert [("--method none" in line, "--seed 1" in line) for line in commands] == [(True, True), (False, True)]

    process = suite("--methods", "none,kd", "--seeds", "0")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "2 of 2 runs have a record; 0 to do" in out
    assert written(tmp_path).total() == 3

    before = ids(tmp_path)
    for record in (tmp_path / "boards" / "records").glob("*.json"):  # lost from the boards, but not from the runs
        record.unlink()
    process = suite("--methods", "none,kd", "--seeds", "0")
    process.communicate(timeout=300)
    assert ids(tmp_path) == before and written(tmp_path).total() == 3  # the teacher's too


def test_an_interrupted_suite_goes_on_where_it_was(suite, tmp_path):
    process = suite("--methods", "none", "--seeds", "0,1", "--set", "train.schedule.epochs=20")
    runs = tmp_path / "runs" / "glyphs"
    wait_until(lambda: any(runs.glob(f"none/*/{LAST}")))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in out, out
    assert "benchmark: interrupted; the same command goes on where the runs were" in out
    assert written(tmp_path) == {"teacher 0": 1}
    log = next((tmp_path / "runs" / "suite").glob("*.log")).read_text()
    assert "interrupted; the same command with --resume continues" in log and "Traceback" not in log

    process = suite("--methods", "none", "--seeds", "0,1", "--set", "train.schedule.epochs=20")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert written(tmp_path) == {"teacher 0": 1, "none 0": 1, "none 1": 1}
    assert "epoch 1/20" not in (tmp_path / "runs" / "suite" / "glyphs-none-seed0.log").read_text()


def test_on_a_ray_cluster_a_killed_workers_runs_end_exactly_once(suite, tmp_path):
    process = suite("--methods", "none,kd", "--seeds", "0,1", "--ray", "local")
    runs = tmp_path / "runs" / "glyphs"
    wait_until(lambda: any(runs.glob(f"*/seed*/{LAST}")))
    worker = int((tmp_path / "parents.txt").read_text().split()[0])
    os.kill(worker, signal.SIGKILL)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert written(tmp_path) == {"teacher 0": 1, "none 0": 1, "none 1": 1, "kd 0": 1, "kd 1": 1}
    assert len(ids(tmp_path)) == 5


def wait_until(there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)
