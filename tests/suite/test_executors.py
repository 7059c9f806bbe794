import signal
import sys
import time
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.suite.executors import Cluster, Processes, run_in_task, visible_gpus

SLEEP = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.default_int_handler); print('started', flush=True);"
    "time.sleep(60)"
)


def wait_for(path: Path, text: str) -> None:
    for _ in range(1200):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.025)
    raise AssertionError(f"{path} does not contain {text!r} after 30 s")


def test_processes_return_exit_status_and_write_logs(tmp_path):
    executor = Processes(2)
    commands = [[sys.executable, "-c", f"import sys; print({i}); sys.exit({i})"] for i in range(3)]
    futures = [executor.submit(command, tmp_path / f"{i}.log") for i, command in enumerate(commands)]
    assert [future.result() for future in futures] == [0, 1, 2]
    assert [(tmp_path / f"{i}.log").read_text() for i in range(3)] == ["0\n", "1\n", "2\n"]
    executor.close()


def test_gpus_are_handed_out_in_turn(tmp_path):
    executor = Processes(3, ["4", "6"])
    show = [sys.executable, "-c", "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1)"]
    futures = [executor.submit(show, tmp_path / f"{i}.log") for i in range(3)]
    assert [future.result() for future in futures] == [0, 0, 0]
    assert sorted((tmp_path / f"{i}.log").read_text() for i in range(3)) == ["4\n", "4\n", "6\n"]
    executor.close()


def test_several_gpus_for_each_command(tmp_path):
    executor = Processes(2, ["0", "1", "2", "3"], each=2)
    show = [sys.executable, "-c", "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1)"]
    futures = [executor.submit(show, tmp_path / f"{i}.log") for i in range(2)]
    assert [future.result() for future in futures] == [0, 0]
    assert sorted((tmp_path / f"{i}.log").read_text() for i in range(2)) == ["0,1\n", "2,3\n"]
    executor.close()


def test_visible_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus("auto") == visible_gpus("cuda") == ["0", "1"]
    assert visible_gpus("cpu") == visible_gpus("cuda:1") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-b1")
    assert visible_gpus("cuda") == ["5", "GPU-b1"]


def test_closing_processes_interrupts_running_and_cancels_queued(tmp_path):
    executor = Processes(1)
    running = executor.submit([sys.executable, "-c", SLEEP], tmp_path / "running.log")
    queued = executor.submit([sys.executable, "-c", "1"], tmp_path / "queued.log")
    wait_for(tmp_path / "running.log", "started")
    executor.close()
    assert running.result() == -signal.SIGINT
    assert "KeyboardInterrupt" in (tmp_path / "running.log").read_text()
    assert queued.cancelled() and not (tmp_path / "queued.log").exists()


def test_task_runs_in_its_folder_and_appends_to_the_log(tmp_path, monkeypatch):
    monkeypatch.chdir(Path.cwd())  # restored at the end
    log = tmp_path / "task.log"
    log.write_text("before\n")
    code = "import os, sys; print(os.getcwd()); sys.exit(3)"
    assert run_in_task([sys.executable, "-c", code], str(log), str(tmp_path)) == 3
    assert log.read_text() == f"before\n{tmp_path}\n"


def test_cancelled_task_interrupts_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(Path.cwd())
    log = tmp_path / "task.log"

    def cancel(*_: object) -> None:
        wait_for(log, "started")
        raise KeyboardInterrupt  # as Ray does in the worker

    before = signal.signal(signal.SIGALRM, cancel)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_task([sys.executable, "-c", SLEEP], str(log), str(tmp_path))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "KeyboardInterrupt" in log.read_text()


def test_cluster_names_the_extra_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--ray needs Ray: pip install 'retrieval-distill-benchmark\[cluster\]'"):
        Cluster("local", cpus=1, gpus=0)
