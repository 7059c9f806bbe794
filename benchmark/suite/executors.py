"""Execution of commands: in local processes or as tasks of a Ray cluster."""

import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Protocol

from benchmark.errors import UserError


class Executor(Protocol):
    """A queue of commands."""

    def submit(self, command: Sequence[str], log: Path) -> "Future[int]":
        """Queue a command whose output is written to `log`. The result of the future is its exit status."""

    def close(self) -> None:
        """Interrupt running commands, cancel queued ones, and wait until all have ended."""


class Processes:
    """Runs commands in local processes.

    Args:
        jobs: Maximum number of processes at the same time.
    """

    def __init__(self, jobs: int) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = Lock()

    def submit(self, command: Sequence[str], log: Path) -> "Future[int]":
        """Queue a command whose output is written to `log`. The result of the future is its exit status."""
        return self._pool.submit(self._run, command, log)

    def close(self) -> None:
        """Interrupt running commands as Ctrl-C does, cancel queued ones, and wait until all have ended."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.send_signal(signal.SIGINT)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, command: Sequence[str], log: Path) -> int:
        with log.open("wb") as output:
            with self._lock:
                if self._closed:
                    return -signal.SIGINT
                process = _start(command, output.fileno())
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)


_INTERRUPT_TIMEOUT = 60
"""Maximum time in seconds to wait for interrupted Ray tasks."""


class Cluster:
    """Runs commands as Ray tasks. All nodes must share the file system of runs, data and leaderboards.

    If a task's worker or node is lost, Ray runs the task again on another one, where the command resumes from the last
    checkpoint. If the command of the lost worker is still running, the new one waits for the lock of the run folder and
    then returns the finished result.

    Args:
        address: Address of the cluster; "auto" for the cluster of this machine, "local" for a new cluster of only this
            machine.
        cpus: Number of CPUs per task.
        gpus: Number of GPUs per task.

    Raises:
        UserError: Ray is not installed, or there is no cluster at this address.
    """

    def __init__(self, address: str, cpus: float, gpus: float) -> None:
        try:
            import ray  # an optional dependency
        except ImportError as error:
            raise UserError("--ray needs Ray: pip install 'retrieval-distill-benchmark[cluster]'") from error
        self._ray = ray
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"--ray {address}: {error}") from error
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(run_in_task)
        self._references: list[object] = []

    def submit(self, command: Sequence[str], log: Path) -> "Future[int]":
        """Queue a command whose output is written to `log`. The result of the future is its exit status."""
        reference = self._task.remote(list(command), str(log.absolute()), str(Path.cwd()))
        self._references.append(reference)
        return reference.future()

    def close(self) -> None:
        """Interrupt running commands, cancel queued ones, wait until they end, and disconnect from the cluster."""
        for reference in self._references:
            self._ray.cancel(reference)
        if self._references:
            self._ray.wait(self._references, num_returns=len(self._references), timeout=_INTERRUPT_TIMEOUT)
        self._ray.shutdown()


def run_in_task(command: Sequence[str], log: str, folder: str) -> int:
    """Run a command in a folder and return its exit status. If the task is cancelled, interrupt the command."""
    os.chdir(folder)
    with Path(log).open("ab") as output:
        process = _start(command, output.fileno())
        try:
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise


def _start(command: Sequence[str], output: int) -> "subprocess.Popen[bytes]":
    # In a new session: Ctrl-C in the terminal reaches only the suite, which then interrupts its commands once.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
