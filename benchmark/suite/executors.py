"""Execution of commands: in local processes or as tasks of a Ray cluster."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Lock
from types import MappingProxyType
from typing import Final, Protocol

import torch

from benchmark.errors import UserError
from benchmark.utils.lifetime import PARENT, take_signals

VISIBLE_GPUS: Final = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that a process sees."""
NONE: Final[Mapping[str, str]] = MappingProxyType({})
"""No environment variables."""
STOP_TIMEOUT = 60.0
"""Time in seconds for interrupted commands to end before they are killed."""


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
        gpus: The GPUs that are handed out in turn, as in `CUDA_VISIBLE_DEVICES`. Each command sees some of them; if
            there are none, it sees what this process sees.
        each: Number of GPUs that a command sees.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = (), each: int = 1) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        self._has_gpus = bool(gpus)
        self._gpus: Queue[str] = Queue()
        for number in range(jobs if gpus else 0):
            self._gpus.put(
                ",".join(gpus[position % len(gpus)] for position in range(number * each, (number + 1) * each))
            )
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
            running = list(self._running)
        self._pool.shutdown(wait=False, cancel_futures=True)
        stop_processes(running)
        self._pool.shutdown()

    def _run(self, command: Sequence[str], log: Path) -> int:
        gpu = self._gpus.get() if self._has_gpus else None
        try:
            return self._execute(command, log, {} if gpu is None else {VISIBLE_GPUS: gpu})
        finally:
            if gpu is not None:
                self._gpus.put(gpu)

    def _execute(self, command: Sequence[str], log: Path, variables: Mapping[str, str]) -> int:
        with log.open("wb") as output:
            with self._lock:
                if self._closed:
                    return -signal.SIGTERM
                process = start_process(command, output.fileno(), variables)
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)


_RETRIES = 3
"""Number of times that Ray repeats the task of a lost worker. The task itself may be the reason of the loss."""


class Cluster:
    """Runs commands as Ray tasks. All nodes must share the file system of runs, data and leaderboards.

    If a task's worker or node is lost, Ray runs the task again on another one, where the command resumes from the last
    checkpoint. The command of a lost worker ends with it; until then, the new one waits for the lock of the run folder.

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
        take_signals()  # which Ray has taken
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(run_in_task)
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
            self._ray.wait(self._references, num_returns=len(self._references), timeout=STOP_TIMEOUT)
        self._ray.shutdown()


def run_in_task(command: Sequence[str], log: str, folder: str) -> int:
    """Run a command in a folder and return its exit status. If the task is cancelled, interrupt the command."""
    os.chdir(folder)
    with Path(log).open("ab") as output:
        process = start_process(command, output.fileno())
        try:
            return process.wait()
        except BaseException:
            stop_processes([process])
            raise


def visible_gpus(device: str) -> list[str]:
    """Return the GPUs among which local runs with this device are distributed, as in `CUDA_VISIBLE_DEVICES`."""
    if device not in ("auto", "cuda"):
        return []
    names = [name for name in os.environ.get(VISIBLE_GPUS, "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return names[:count] if len(names) >= count else [str(number) for number in range(count)]


def start_process(
    command: Sequence[str], output: int | None, variables: Mapping[str, str] = NONE
) -> "subprocess.Popen[bytes]":
    """Start a command that ends if this process is killed.

    Args:
        command: The command.
        output: File descriptor of its output; None for the output of this process.
        variables: Environment variables in addition to those of this process.
    """
    # In a new session: Ctrl-C in the terminal reaches only the suite, which then interrupts its commands once.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
        env=os.environ | {PARENT: str(os.getpid()), **variables},
    )


def stop_processes(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Terminate processes and wait until they have ended; kill those that take too long, with their own processes."""
    for process in processes:
        process.terminate()  # not SIGINT, which background jobs of a shell script ignore
    end = time.monotonic() + STOP_TIMEOUT
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
