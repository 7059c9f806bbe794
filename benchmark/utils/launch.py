"""How this process was started: alone, or as one of several that share one command.

The variables of torchrun, OpenMPI (`mpirun`) and SLURM (`srun`) are read, which are also those of mmengine's launchers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.errors import UserError
from benchmark.utils.variables import count, text

PORT = 29500
"""Default port at which the processes meet, as of torchrun and mmengine."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The processes that share one command, and which of them this is."""

    processes: int = 1
    """Number of processes."""
    rank: int = 0
    """Number of this process; process 0 is the main process."""
    local_rank: int = 0
    """Number of this process on its machine."""
    local_processes: int = 1
    """Number of processes on this machine."""
    address: str = "127.0.0.1"
    """Host of the main process."""
    port: int = PORT
    own_cores: bool = False
    """Whether the launcher has given every process cores of its own."""
    own_devices: bool = False
    """Whether the launcher may have given every process a GPU of its own, the only one that it sees."""

    @property
    def sharing(self) -> int:
        """Number of processes that share the cores that this process may use."""
        return 1 if self.own_cores else self.local_processes


def launch() -> Launch:
    """Return how this process was started.

    Raises:
        UserError: The variables of the launcher are invalid or incomplete.
    """
    if text("WORLD_SIZE") is not None:
        started, source = _by_torchrun(), "WORLD_SIZE"
    elif text("OMPI_COMM_WORLD_SIZE") is not None:
        started, source = _by_mpirun(), "OMPI_COMM_WORLD_SIZE"
    else:
        # Only srun sets this one. A batch script has SLURM_NTASKS, too, although it is a single process.
        started, source = _by_srun(), "SLURM_STEP_NUM_TASKS"
    if started.processes == 1:
        return Launch()
    if started.rank >= started.processes:
        rank = {"WORLD_SIZE": "RANK", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}.get(source, "SLURM_PROCID")
        raise UserError(
            f"{rank}={started.rank}: must be below {source}, {started.processes}; start the command with torchrun"
        )
    if not 0 < started.port < 65536:  # torchrun accepts 0, at which the processes would not meet
        raise UserError(
            f"MASTER_PORT={started.port}: must be from 1 to 65535; use torchrun --standalone for a free port"
        )
    return started


def _by_torchrun() -> Launch:
    processes = count("WORLD_SIZE", 1)
    if processes == 1:
        return Launch()
    if processes < 1:
        raise UserError(f"WORLD_SIZE={processes}: must be at least 1; unset it, or start the command with torchrun")
    if missing := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if text(name) is None]:
        raise UserError(
            f"WORLD_SIZE={processes}, but {', '.join(missing)} is not set: unset WORLD_SIZE, or start the command with "
            "torchrun"
        )
    return Launch(
        processes,
        count("RANK", 0),
        count("LOCAL_RANK", 0),
        count("LOCAL_WORLD_SIZE", processes),
        text("MASTER_ADDR") or "",
        count("MASTER_PORT", PORT),
    )


def _by_mpirun() -> Launch:
    processes = count("OMPI_COMM_WORLD_SIZE", 1)
    local = count("OMPI_COMM_WORLD_LOCAL_SIZE", processes)
    address = text("MASTER_ADDR")
    if address is None and local < processes:
        raise UserError(
            "MASTER_ADDR is not set: set it to the host of the first process, as in `mpirun -x MASTER_ADDR=node1`"
        )
    return Launch(
        processes,
        count("OMPI_COMM_WORLD_RANK", 0),
        count("OMPI_COMM_WORLD_LOCAL_RANK", 0),
        local,
        address or "127.0.0.1",
        count("MASTER_PORT", PORT),
    )


def _by_srun() -> Launch:
    processes = count("SLURM_STEP_NUM_TASKS", 1)
    tasks = list(_per_node(text("SLURM_STEP_TASKS_PER_NODE") or str(processes)))
    node = count("SLURM_NODEID", 0)
    # Steps of one job, and jobs on one machine, must not meet at the same port.
    port = PORT + (7 * count("SLURM_JOB_ID", 0) + count("SLURM_STEP_ID", 0)) % 20_000
    return Launch(
        processes,
        count("SLURM_PROCID", 0),
        count("SLURM_LOCALID", 0),
        tasks[node] if node < len(tasks) else processes,
        text("MASTER_ADDR") or first_host(text("SLURM_STEP_NODELIST") or text("SLURM_NODELIST") or "127.0.0.1"),
        count("MASTER_PORT", port),
        own_cores=text("SLURM_CPUS_PER_TASK") is not None,
        own_devices=True,
    )


def first_host(hosts: str) -> str:
    """Return the first host of a list of SLURM, such as `node03` of `node[03-05,07],login`."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]*)[^\]]*\]([^,\[]*))?", hosts)
    return "".join(part or "" for part in match.groups()) if match else hosts


def _per_node(tasks: str) -> Iterator[int]:
    """Yield the number of tasks on each node, from text such as `4(x2),3`."""
    for number, repeats in re.findall(r"(\d{1,6})(?:\(x(\d{1,6})\))?", tasks):
        yield from [int(number)] * int(repeats or 1)
