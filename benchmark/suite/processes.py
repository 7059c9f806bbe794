"""Runs in processes of this machine."""

import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock


class Processes:
    """Runs commands in processes, some at a time.

    Args:
        jobs: How many at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = Lock()

    def submit(self, command: Sequence[str], log: Path) -> "Future[int]":
        """Queue a command, whose output goes to `log`; the future is its exit status."""
        return self._pool.submit(self._run, command, log)

    def close(self) -> None:
        """Interrupt what runs, as Ctrl-C would, forget what waits, and return when all has ended."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, command: Sequence[str], log: Path) -> int:
        with log.open("wb") as output:
            with self._lock:
                if self._stopped:
                    return -signal.SIGINT
                process = start(command, output.fileno())
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)


def start(command: Sequence[str], output: int) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own, so that Ctrl-C in the terminal does not reach it twice."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
