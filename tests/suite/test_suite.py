"""`benchmark suite`: in this process with stub runs, and (slow) as a process with real ones."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmark.commands import suite as suite_command
from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.evaluation import TestSet
from benchmark.experiment.inputs import describe_data
from benchmark.results.parts import Data
from benchmark.results.record import Record
from benchmark.results.store import add_record, load_records
from benchmark.suite import latencies
from benchmark.suite.scheduler import Outcome
from benchmark.utils.lifetime import REQUEUE


class StubRuns:
    """Replaces `run_all`: writes made-up records. Runs of the methods in `failing` fail, those in `stopped` end early.

    `interrupt` interrupts all.
    """

    def __init__(self, records: Path, record: Callable[..., Record], data: Data) -> None:
        self.records = records
        self.record = record
        self.data = data
        self.commands: list[str] = []
        self.failing: set[str] = set()
        self.stopped: set[str] = set()
        self.interrupt = False

    def __call__(self, jobs, executor, console):
        executor.close()
        self.commands += [job.command_line for job in jobs]
        if self.interrupt:
            raise KeyboardInterrupt
        return [self._outcome(job) for job in jobs]

    def _outcome(self, job) -> Outcome:
        recipe = job.recipe
        if recipe.method.name in self.failing:
            return Outcome(job, None, "exit status 1: RuntimeError: broken")
        if recipe.method.name in self.stopped:
            return Outcome(job, None, "stopped by the time limit", stopped=True)
        record = self.record(recipe.method.name, seed=recipe.seed, recipe_hash=recipe.hash, id=job.id, data=self.data)
        teacher = self.record("none", role="teacher")
        for path, each in ((job.record, record), (job.teacher_records[0], teacher)):
            each.write(path)
            add_record(each, self.records)
        return Outcome(job, record)


@pytest.fixture
def places(tmp_path, data_root, tiny_config) -> list[str]:
    options = {"--work-dir": tmp_path / "runs", "--leaderboards": tmp_path / "boards", "--data-root": data_root}
    options |= {"--config": tiny_config, "--device": "cpu", "--datasets": "glyphs"}
    return [str(part) for option in options.items() for part in option]


@pytest.fixture
def runs(tmp_path, record, tiny, data_root, monkeypatch) -> StubRuns:
    data = describe_data(TestSet.from_recipe(tiny("none"), data_root, torch.device("cpu")))
    stub = StubRuns(tmp_path / "boards" / "records", record, data)
    monkeypatch.setattr(suite_command, "run_all", stub)
    return stub


@pytest.fixture
def measured(monkeypatch) -> list[list[str]]:
    """The names of the runs whose latencies were measured, for each measurement."""
    measured: list[list[str]] = []
    monkeypatch.setattr(latencies, "measure_latencies", lambda jobs, *_: measured.append([job.name for job in jobs]))
    return measured


@pytest.fixture
def suite(command_line, places):
    """`suite("--methods", "none,kd")` runs the command and returns exit code, stdout and stderr."""
    return lambda *arguments: command_line("suite", *arguments, *places)


def test_runs_what_is_not_finished(suite, runs, tmp_path):
    runs.failing = {"kd"}
    code, out, _ = suite("--methods", "none,kd", "--seeds", "0,1")
    assert code == 1
    assert "0 of 4 runs are finished, 4 to run" in out
    assert "kd on glyphs, seed 0: exit status 1: RuntimeError: broken" in out
    assert f"log: {tmp_path / 'runs' / 'suite' / 'glyphs-kd-seed0-'}" in "".join(out.split("\n"))
    assert "2 runs finished in 0 minutes, 2 failed" in out
    assert (tmp_path / "boards" / "README.md").exists()

    runs.failing = set()
    runs.commands.clear()
    code, out, _ = suite("--methods", "none,kd", "--seeds", "0,1")
    assert code == 0
    assert "2 of 4 runs are finished, 2 to run" in out
    assert ["--method kd" in command for command in runs.commands] == [True, True]
    rows = [line.split() for line in out.splitlines() if "glyphs" in line]
    assert [row[:2] for row in rows[:2]] == [["glyphs", "kd"], ["glyphs", "none"]]
    assert "2 runs finished in 0 minutes, 0 failed" in out


def test_runs_that_stop_early_can_be_queued_again(suite, runs):
    runs.stopped = {"kd"}
    code, out, _ = suite("--methods", "none,kd", "--seeds", "0,1")
    assert code == REQUEUE
    assert "2 runs finished in 0 minutes, 0 failed, 2 stopped early; repeat the command to continue" in out
    assert "kd on glyphs, seed 0: stopped by the time limit" in out
    runs.failing = {"none"}
    assert suite("--methods", "none,kd", "--seeds", "2")[0] == 1


def test_dry_run_prints_commands(suite, runs, tmp_path):
    setting = "student.args={layers: [1, 1, 1, 1]}"  # with a space, so that a shell needs quotes
    code, out, _ = suite("--methods", "none,kd", "--seeds", "1", "--set", setting, "--dry-run")
    assert code == 0 and not runs.commands
    commands = [shlex.split(line) for line in out.splitlines() if line.startswith("benchmark run")]
    assert [command[3] for command in commands] == ["none", "kd"]
    assert all({"--seed", "1", "--set", setting} <= set(command) for command in commands)
    assert not (tmp_path / "boards").exists() and not (tmp_path / "runs").exists()


def test_processes_of_a_run_need_a_gpu_each(suite, runs, monkeypatch):
    monkeypatch.setattr(suite_command, "visible_gpus", lambda device: ["0"])
    code, _, err = suite("--methods", "none", "--processes-per-run", "2")
    assert code == 2 and "--processes-per-run 2: this machine has 1 GPU, and each process needs one" in err
    code, _, err = suite("--methods", "none", "--processes-per-run", "2", "--ray", "auto", "--gpus", "0.5")
    assert code == 2 and "--gpus 0.5: the 2 processes of a run need a GPU each; use --gpus 1" in err
    assert not runs.commands


@pytest.mark.slow
def test_two_processes_share_each_run(suite, tmp_path):
    code, out, err = suite("--methods", "none", "--processes-per-run", "2")
    assert code == 0, out + err
    records = load_records(tmp_path / "boards" / "records")
    assert sorted((record.role, record.environment.processes) for record in records) == [("student", 2), ("teacher", 2)]


def test_restores_records_that_only_run_folders_hold(suite, runs, tmp_path):
    suite("--methods", "none,kd")
    before = load_records(tmp_path / "boards" / "records")
    for path in (tmp_path / "boards" / "records").glob("*.json"):
        path.unlink()
    runs.commands.clear()
    code, out, _ = suite("--methods", "none,kd", "--dry-run")
    assert code == 0 and "2 of 2 runs are finished, 0 to run" in out
    assert load_records(tmp_path / "boards" / "records") == []
    code, _, _ = suite("--methods", "none,kd")
    assert code == 0 and not runs.commands
    assert load_records(tmp_path / "boards" / "records") == before
    assert len(before) == 3  # the teacher's too


def test_measures_latencies_after_concurrent_runs(suite, runs, measured, tmp_path):
    suite("--methods", "none")
    assert measured == [] and "runtime.threads" not in runs.commands[0]
    code, _, _ = suite("--methods", "none,kd", "--jobs", "2")
    assert code == 0
    assert measured == [["none on glyphs, seed 0", "kd on glyphs, seed 0"]]
    assert not (tmp_path / "runs" / "suite" / "latencies-pending").exists()


def test_measures_latencies_after_an_interrupted_suite(suite, runs, measured):
    runs.interrupt = True
    code, _, err = suite("--methods", "none", "--jobs", "2")
    assert code == 130 and "benchmark: interrupted; repeat the command to resume" in err
    assert measured == []
    runs.interrupt = False
    code, _, _ = suite("--methods", "none")
    assert code == 0 and measured == [["none on glyphs, seed 0"]]


def test_concurrent_runs_share_the_cores(suite, runs, measured, monkeypatch):
    monkeypatch.setattr(suite_command, "cores", lambda: 8)
    suite("--methods", "none", "--jobs", "4", "--set", "runtime.threads=null")
    assert "--set runtime.threads=2" in runs.commands[0]
    suite("--methods", "kd", "--jobs", "4")  # the recipe sets 1 thread
    assert "runtime.threads" not in runs.commands[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "none", "--gpus", "1"], "--gpus 1: only for --ray"),
        (["--methods", "none", "--seeds", "0,one"], "--seeds 0,one: must be comma-separated integers"),
        (["--methods", ","], "the suite has no methods: give --methods"),
    ],
)
def test_rejects_invalid_options(suite, arguments, message):
    code, _, err = suite(*arguments)
    assert code == 2 and message in err


PLUGIN = '''
"""A method that fails, and traces: $WRITTEN has a line per written record, $PARENTS the parent process of each run."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

from benchmark.method import Method
from benchmark.experiment import report
from benchmark.model.latency import Latencies, Latency
from benchmark.registry import METHODS
from benchmark.evaluation import TestSet
from benchmark.experiment.inputs import describe_data
from benchmark.results.parts import Data
from benchmark.results.record import Record


@METHODS.register_module()
class broken(Method):
    """Fails."""

    def loss(self, student, teacher, batch):
        raise RuntimeError("this method is broken")


write = Record.write


def traced_write(self, path):
    if path.name == "record.json":
        with Path(os.environ["WRITTEN"]).open("a") as file:
            file.write(f"{path.parent.parent.name} {self.seed}\\n")
    return write(self, path)


if sys.argv[1] == "run":
    with Path(os.environ["PARENTS"]).open("a") as file:
        file.write(f"{os.getppid()}\\n")
    Record.write = traced_write
else:
    of_batch = {batch: Latency(ms, ms, ms, (ms, ms)) for batch, ms in ((1, 123.0), (64, 456.0))}
    report.latency = lambda *_: Latencies(of_batch, 1, 0.0)
'''


@pytest.fixture
def start(tmp_path, places):
    """`start("--methods", "none,kd")` starts `benchmark suite` of tiny runs, with `PLUGIN`, in a process."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark", "suite", *arguments, *places, "--plugin", str(plugin)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {name: str(tmp_path / f"{name.lower()}.txt") for name in ("WRITTEN", "PARENTS")},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return start


def written(tmp_path: Path) -> Counter[str]:
    return Counter((tmp_path / "written.txt").read_text().splitlines())


def listed(tmp_path: Path) -> list[tuple[str, str, int]]:
    return [(record.role, record.method, record.seed) for record in load_records(tmp_path / "boards" / "records")]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_concurrent_runs_with_a_failure(start, suite, tmp_path):
    process = start("--methods", "none,broken,kd", "--jobs", "2")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "0 of 3 runs are finished, 3 to run" in out
    assert "broken on glyphs, seed 0 FAILED: exit status 1: RuntimeError: this method is broken" in out
    assert "2 runs finished in" in out and "1 failed" in out
    assert written(tmp_path) == {"teacher 0": 1, "none 0": 1, "kd 0": 1}  # concurrent runs train their teacher once
    before = [("student", "kd", 0), ("student", "none", 0), ("teacher", "none", 0)]
    assert sorted(listed(tmp_path)) == before
    assert (tmp_path / "boards" / "README.md").exists()
    latencies = [record.network.cost.latency_ms for record in load_records(tmp_path / "boards" / "records")]
    assert latencies == 3 * [{"1": 123.0, "64": 456.0}]  # measured by the suite itself
    assert not (tmp_path / "runs" / "suite" / "latencies-pending").exists()

    code, out, _ = suite("--methods", "none,kd", "--seeds", "0,1", "--dry-run")
    assert code == 0 and "2 of 4 runs are finished, 2 to run" in out

    for record in (tmp_path / "boards" / "records").glob("*.json"):
        record.unlink()
    code, out, _ = suite("--methods", "none,kd")
    assert code == 0 and "2 of 2 runs are finished, 0 to run" in out
    assert sorted(listed(tmp_path)) == before and written(tmp_path).total() == 3


def processes(tmp_path: Path) -> list[str]:
    """The commands of living processes that work in `tmp_path`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            command = file.read_text().split("\0")
            found += [" ".join(command)] if "run" in command and str(tmp_path / "runs") in command else []
    return found


@pytest.mark.slow
def test_interrupted_suite_resumes(start, tmp_path):
    """Interrupted by SIGTERM and killed; then two suites at once."""
    arguments = ("--methods", "none", "--seeds", "0,1", "--set", "train.schedule.epochs=20")
    process = start(*arguments)
    runs = tmp_path / "runs" / "glyphs"
    wait_until(lambda: any(runs.glob(f"none/*/{LAST_CHECKPOINT}")))
    process.terminate()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in out, out
    assert "benchmark: interrupted; repeat the command to resume" in out
    assert written(tmp_path) == {"teacher 0": 1} and not processes(tmp_path)
    log = next((tmp_path / "runs" / "suite").glob("*.log")).read_text()
    assert "stopped by SIGTERM" in log and "--resume" in log and "Traceback" not in log

    process = start(*arguments)
    wait_until(lambda: len(processes(tmp_path)) == 1)
    process.kill()
    process.communicate(timeout=120)
    wait_until(lambda: not processes(tmp_path), seconds=20)

    both = [start(*arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    outputs.sort(key=lambda out: "waiting for another process that executes a suite" in out)
    assert "2 to run" in outputs[0] and "2 runs finished" in outputs[0]
    assert "2 of 2 runs are finished, 0 to run" in outputs[1] and "leaderboards" in outputs[1]
    assert written(tmp_path) == {"teacher 0": 1, "none 0": 1, "none 1": 1}
    (log,) = (tmp_path / "runs" / "suite").glob("glyphs-none-seed0-*.log")
    assert "epoch 1/20" not in log.read_text()


@pytest.mark.slow
def test_ray_cluster_finishes_runs_of_a_killed_worker_once(start, tmp_path):
    process = start("--methods", "none,kd", "--seeds", "0,1", "--ray", "local")
    runs = tmp_path / "runs" / "glyphs"
    wait_until(lambda: any(runs.glob(f"*/seed*/{LAST_CHECKPOINT}")))
    worker = int((tmp_path / "parents.txt").read_text().split()[0])
    os.kill(worker, signal.SIGKILL)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert written(tmp_path) == {"teacher 0": 1, "none 0": 1, "none 1": 1, "kd 0": 1, "kd 1": 1}
    assert len(listed(tmp_path)) == 5


@pytest.mark.slow
def test_processes_of_a_run_on_a_ray_cluster(start, tmp_path):
    process = start("--methods", "none", "--ray", "local", "--processes-per-run", "2")
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    records = load_records(tmp_path / "boards" / "records")
    assert sorted((record.role, record.environment.processes) for record in records) == [("student", 2), ("teacher", 2)]


def test_ray_is_asked_for_every_process(suite, runs, monkeypatch):
    asked = []

    def cluster(*arguments):
        asked.append(arguments)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(suite_command, "Cluster", cluster)
    arguments = ("--methods", "none", "--set", "runtime.threads=3", "--processes-per-run", "2")
    assert suite(*arguments, "--ray", "auto", "--gpus", "1")[0] == 0
    assert asked == [("auto", 6, 2)]
