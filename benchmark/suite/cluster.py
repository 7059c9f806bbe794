"""Runs on a Ray cluster."""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from benchmark.errors import UserError
from benchmark.suite.processes import start

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
