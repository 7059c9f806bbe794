"""Where the runs of a suite are executed: processes here, tasks on a Ray cluster."""

import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from benchmark.errors import UserError


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


_PATIENCE = 60
"""Seconds that interrupted runs have to end."""


class Cluster:
    """Runs commands as Ray tasks. Work folder, data and leaderboards must be on a file system that all nodes share.

    A task whose worker or node is lost is done again elsewhere. Its command goes on where its last checkpoint ends; if
    the lost worker's process is still alive, it waits for it at the run's folder, and takes its result.

    Args:
        address: Of the cluster: "auto" for the one that this machine is part of, "local" for one of this machine alone.
        cpus: Processors of each task.
        gpus: GPUs of each task.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, cpus: float, gpus: float) -> None:
        try:
            import ray  # as late as here, because it is optional
        except ImportError as error:
            raise UserError("--ray needs Ray: pip install 'retrieval-distill-benchmark[cluster]'") from error
        self._ray = ray
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"--ray {address}: {error}") from error
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(run)
        self._references: list[object] = []

    def submit(self, command: Sequence[str], log: Path) -> "Future[int]":
        """Queue a command, whose output goes to `log`; the future is its exit status."""
        reference = self._task.remote(list(command), str(log.absolute()), str(Path.cwd()))
        self._references.append(reference)
        return reference.future()

    def close(self) -> None:
        """Interrupt what runs, and leave the cluster."""
        for reference in self._references:
            self._ray.cancel(reference)
        if self._references:
            self._ray.wait(self._references, num_returns=len(self._references), timeout=_PATIENCE)
        self._ray.shutdown()


def run(command: Sequence[str], log: str, folder: str) -> int:
    """Do a command in a folder; its exit status. If the task is cancelled, the command is interrupted."""
    os.chdir(folder)
    with Path(log).open("ab") as output:
        process = start(command, output.fileno())
        try:
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
