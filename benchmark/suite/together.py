"""Several processes of this machine that share one command: `python -m benchmark.suite.together 2 run --method kd ...`.

It does what `torchrun --standalone` does, and the processes end if this one is interrupted or killed.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmark.suite.executors import start_process, stop_processes
from benchmark.utils import lifetime

_POLL_INTERVAL = 0.2
"""Time in seconds between looks at the processes."""
_GRACE = 60.0
"""Time in seconds for the other processes to end after one has failed. Once they are connected, they do so by
themselves within 30 seconds."""


def together(processes: int, command: Sequence[str]) -> int:
    """Run `benchmark` with a command in several processes that share it.

    Args:
        processes: Number of processes.
        command: Command and options, such as `["run", "--method", "kd"]`.

    Returns:
        The exit status: that of the process that failed first, or 0.
    """
    meeting = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            variables = meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(start_process([sys.executable, "-m", "benchmark", *command], None, variables))
        return _wait(running)
    finally:
        stop_processes(running)


def _wait(running: Sequence["subprocess.Popen[bytes]"]) -> int:
    """Wait until all processes have ended, or one has failed and the others had time to end."""
    failure, end = 0, float("inf")
    while time.monotonic() < end:
        statuses = [process.poll() for process in running]
        if not failure and (failed := [status for status in statuses if status]):
            failure, end = failed[0], time.monotonic() + _GRACE
        if None not in statuses:
            break
        time.sleep(_POLL_INTERVAL)
    return failure


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def main() -> None:
    """Run the command of this process's arguments."""
    lifetime.start()
    try:
        code = together(int(sys.argv[1]), sys.argv[2:])
    except KeyboardInterrupt as error:
        interrupted = lifetime.interruption(error)
        assert interrupted is not None
        code = interrupted
    lifetime.finish(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
