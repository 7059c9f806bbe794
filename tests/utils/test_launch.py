"""How a process was started."""

import os
import re

import pytest

from benchmark.errors import UserError
from benchmark.utils.launch import Launch, first_host, launch


@pytest.fixture
def environment(monkeypatch):
    """`environment(NAME="value")` sets variables, and unsets all others of launchers."""

    def change(**values: str) -> None:
        for name in list(os.environ):
            if name.startswith(("SLURM_", "OMPI_", "MASTER_")) or name.endswith(("WORLD_SIZE", "RANK")):
                monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return change


TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_JOB_ID": "17",
}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


class TestLaunch:
    def test_alone_and_by_torchrun(self, environment):
        for alone in ({}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}):
            environment(**alone)
            assert launch() == Launch()
        environment(**TORCHRUN)
        assert launch() == Launch(4, 3, 1, 4, "localhost", 29500)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"WORLD_SIZE": "four"},
                "WORLD_SIZE=four: must be an integer; unset it, or start the command with torchrun",
            ),
            ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2: must be an integer"),
            ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be at least 1"),
            ({"WORLD_SIZE": "9" * 99}, "must be an integer"),
            ({"LOCAL_RANK": ""}, "WORLD_SIZE=4, but LOCAL_RANK is not set: unset WORLD_SIZE"),
            ({"RANK": "4"}, "RANK=4: must be below WORLD_SIZE, 4"),
            ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x: must be an integer"),
            ({"MASTER_PORT": "0"}, "MASTER_PORT=0: must be from 1 to 65535; use torchrun --standalone"),
            ({"MASTER_PORT": "http"}, "MASTER_PORT=http: must be an integer"),
        ],
    )
    def test_invalid(self, environment, change, message):
        environment(**TORCHRUN | change)
        with pytest.raises(UserError, match=re.escape(message)):
            launch()

    def test_by_srun(self, environment):
        """A batch script without srun is a single process, although SLURM names the tasks of its job."""
        environment(SLURM_NTASKS="8", SLURM_PROCID="0", SLURM_LOCALID="0")
        assert launch() == Launch()
        environment(**SRUN)
        started = launch()
        assert (started.processes, started.rank, started.local_rank, started.local_processes) == (7, 5, 1, 3)
        assert started.address == "node03"
        assert started.sharing == 3
        environment(**SRUN, SLURM_CPUS_PER_TASK="4")
        assert launch().sharing == 1

    def test_steps_of_srun_meet_at_different_ports(self, environment):
        ports = set()
        for job, step in (("7", "0"), ("7", "1"), ("8", "0")):
            environment(**SRUN | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step})
            ports.add(launch().port)
        assert len(ports) == 3
        assert all(1024 < port < 65536 for port in ports)

    def test_by_mpirun(self, environment):
        environment(**MPIRUN)
        assert launch() == Launch(2, 1, 1, 2)
        environment(**MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
        with pytest.raises(UserError, match="MASTER_ADDR is not set: set it to the host of the first process"):
            launch()

    def test_torchrun_within_srun(self, environment):
        environment(**SRUN, **TORCHRUN)
        assert launch().processes == 4


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("node1", "node1"), ("node[03-05,07],login", "node03"), ("a[1,3].cluster,b", "a1.cluster"), ("a,b", "a")],
)
def test_first_host(hosts, first):
    assert first_host(hosts) == first
