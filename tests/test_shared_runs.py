"""Runs that several processes share: by torchrun, resumed, with a process that is killed or fails."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.engine.files import read_metrics
from benchmark.results.record import Record

pytestmark = pytest.mark.slow
SETTINGS = ("evaluate.every=1", "dataset.validation_fraction=0.2")
WORK = 30
"""Seconds within which all processes have to end after one of them."""


@pytest.fixture
def launch(command):
    """`launch(2, work, "--method", "kd")` starts a tiny run in two processes, without a launcher that ends them."""
    started = []

    def start(processes: int, work: Path, *arguments: str, settings=()) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        for rank in range(processes):
            place = {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = (work / f"{rank}.txt").open("w")
            started.append(
                subprocess.Popen(
                    command(work, *arguments, settings=(*SETTINGS, *settings)),
                    env=os.environ | meeting | place,
                    stdout=log,
                    stderr=log,
                )
            )
        return started[-processes:]

    yield start
    for process in started:
        process.kill()
        process.wait()


def run_folder(work: Path, method: str) -> Path:
    (folder,) = (work / "runs" / "glyphs" / method).glob("seed*")
    return folder


def wait_for_epoch(work: Path, method: str, process: subprocess.Popen) -> None:
    """Wait until the first epoch of a training is complete and saved."""
    while process.poll() is None:
        if list(work.glob(f"runs/glyphs/{method}/seed*/checkpoints/last.pt")):
            return
        time.sleep(0.02)
    raise AssertionError((work / "0.txt").read_text())


def test_torchrun(command, tmp_path, shrinking):
    """The main process alone prints and writes; the result is that of a run."""
    words = command(tmp_path, "--method", "cdd", settings=(*SETTINGS, *shrinking))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, "-m", "benchmark", "--", *words[3:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1/2") == 2  # of teacher and student
    assert done.stdout.count("saved %") == 1
    record = Record.read(run_folder(tmp_path, "cdd") / "record.json")
    assert record.environment.processes == 2
    assert record.deploy.max_abs_difference < 1e-4
    rows = read_metrics(run_folder(tmp_path, "cdd"))
    assert rows[-1]["channels"] < rows[0]["channels"]
    assert all("mAP" in row for row in rows[1:])
    assert not list(tmp_path.rglob("*.tmp*"))


def test_stop_kill_and_resume(launch, tmp_path, shrinking):
    """A resumed run is bit-identical, all processes stop after one step, and those that are not killed end."""
    works = [tmp_path / name for name in ("straight", "killed")]
    for work in works:
        work.mkdir()
    arguments = ("--method", "cdd")
    straight = launch(2, works[0], *arguments, settings=shrinking)
    assert [process.wait() for process in straight] == [0, 0]

    first, second = launch(2, works[1], *arguments, settings=shrinking)
    wait_for_epoch(works[1], "teacher", first)
    second.send_signal(signal.SIGUSR1)
    assert [process.wait(timeout=WORK) for process in (first, second)] == [75, 75]
    assert "stopped by SIGUSR1 after step" in (works[1] / "0.txt").read_text().splitlines()[-1]
    assert "stopped" not in (works[1] / "1.txt").read_text()

    for killed, other in ((1, 0), (0, 1)):
        processes = launch(2, works[1], *arguments, "--resume", settings=shrinking)
        wait_for_epoch(works[1], "cdd", processes[0])
        while "protocol" not in (works[1] / "0.txt").read_text():
            time.sleep(0.02)
        processes[killed].send_signal(signal.SIGKILL)
        start = time.monotonic()
        assert processes[other].wait(timeout=WORK) == 2
        assert time.monotonic() - start < WORK
        last = (works[1] / f"{other}.txt").read_text().strip().splitlines()[-1]
        assert re.search("this process ends, too", last), last

    resumed = launch(2, works[1], *arguments, "--resume", settings=shrinking)
    assert [process.wait() for process in resumed] == [0, 0], (works[1] / "0.txt").read_text()
    records = [Record.read(run_folder(work, "cdd") / "record.json") for work in works]
    assert records[0].network.weights == records[1].network.weights
    assert records[0].scores == records[1].scores


def test_failure_of_the_main_process(launch, tmp_path):
    """A file that cannot be written ends the other processes, too."""
    (tmp_path / "runs").write_text("not a folder")
    processes = launch(2, tmp_path, "--method", "none")
    assert [process.wait(timeout=120) for process in processes] == [2, 2]
    assert "cannot be created" in (tmp_path / "0.txt").read_text().splitlines()[-1]
    assert "Traceback" not in (tmp_path / "1.txt").read_text()


def test_outputs_of_the_teacher_are_computed_by_one_process(launch, tmp_path):
    """Every process reads those of its own images: the loss is near that with a teacher that computes."""
    losses, logs, folders = [], [], set()
    short = ("train.schedule.epochs=1", "teacher.train.schedule.epochs=1")
    for views in (2, 0):
        started = launch(2, tmp_path, "--method", "csd", settings=(*short, f"teacher.cached_views={views}"))
        codes = [process.wait() for process in started]
        logs.append("".join((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)))
        assert codes == [0, 0], logs[-1]
        (folder,) = set((tmp_path / "runs" / "glyphs" / "csd").glob("seed*")) - folders
        folders.add(folder)
        losses.append(read_metrics(folder)[-1]["loss_csd"])
    assert [log.count("computing the teacher's outputs") for log in logs] == [1, 0]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
