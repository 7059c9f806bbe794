import signal
import sys
import time
from pathlib import Path

from benchmark.suite.executors import Processes

SLEEP = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); print('here', flush=True);"


def wait_for(path: Path, text: str) -> None:
    for _ in range(600):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never held {text!r}")


def test_commands_end_with_their_status_and_print_into_their_log(tmp_path):
    executor = Processes(2)
    commands = [[sys.executable, "-c", f"import sys; print({i}); sys.exit({i})"] for i in range(3)]
    futures = [executor.submit(command, tmp_path / f"{i}.log") for i, command in enumerate(commands)]
    assert [future.result() for future in futures] == [0, 1, 2]
    assert [(tmp_path / f"{i}.log").read_text() for i in range(3)] == ["0\n", "1\n", "2\n"]
    executor.close()


def test_closing_interrupts_what_runs_and_forgets_what_waits(tmp_path):
    executor = Processes(1)
    running = executor.submit([sys.executable, "-c", SLEEP + "time.sleep(60)"], tmp_path / "running.log")
    waiting = executor.submit([sys.executable, "-c", "1"], tmp_path / "waiting.log")
    wait_for(tmp_path / "running.log", "here")
    executor.close()
    assert running.result() in (1, 130, -signal.SIGINT)
    assert "KeyboardInterrupt" in (tmp_path / "running.log").read_text()
    assert waiting.cancelled() and not (tmp_path / "waiting.log").exists()
