"""Limits of the machine."""

import errno
import math

import pytest
import torch

from benchmark.utils.machine import cores, cpu_limit, shortage


def limit(tmp_path, own: str, files: dict[str, str]) -> float:
    """Return the CPU limit of a process whose control groups are `own`, with these files."""
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return cpu_limit(tmp_path, tmp_path / "own")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, id="container"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, math.inf, id="no limit"),
        pytest.param(
            "0::/user/job\n",
            {"user/cpu.max": "200000 100000\n", "user/job/cpu.max": "400000 100000\n"},
            2,
            id="limit of an outer group",
        ),
        pytest.param("0::/docker/abc\n", {"cpu.max": "300000 100000\n"}, 3, id="path of the host"),
        pytest.param(
            "4:memory:/\n3:cpu,cpuacct:/docker\n",
            {"cpu,cpuacct/docker/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n"},
            0.5,
            id="version 1",
        ),
        pytest.param(
            "3:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            math.inf,
            id="version 1, none",
        ),
        pytest.param("0::/\n", {"cpu.max": "0 0"}, math.inf, id="nonsense"),
        pytest.param("garbage\n", {}, math.inf, id="no groups"),
    ],
)
def test_cpu_limit_of_control_groups(tmp_path, own, files, expected):
    assert limit(tmp_path, own, files) == expected


def test_no_control_groups_and_no_proc(tmp_path):
    assert cpu_limit(tmp_path / "absent", tmp_path / "absent") == math.inf


def test_cores_of_a_limited_container(monkeypatch):
    monkeypatch.setattr("benchmark.utils.machine.cpu_limit", lambda: 0.5)
    assert cores() == 1


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (torch.OutOfMemoryError("Allocation on device"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"), "out of"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/record.json"), "/x/record.json: no space left"),
    ],
)
def test_shortage_has_a_remedy(error, part):
    assert part in shortage(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), OSError(2, "No such")])
def test_other_errors_are_no_shortage(error):
    assert shortage(error) is None
