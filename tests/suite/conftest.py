"""Jobs with stub commands."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.suite.job import Job


@pytest.fixture
def stub_job(tmp_path, tiny) -> Callable[..., Job]:
    """`stub_job("kd", "print(1)")` is a job of 4 epochs whose command is Python code; its teacher has 2 epochs."""

    def build(method: str, code: str = "") -> Job:
        return Job(
            recipe=tiny(method, "train.schedule.epochs=4"),
            record=tmp_path / "runs" / method / "record.json",
            teacher_records=(tmp_path / "runs" / "teacher" / "record.json",),
            command=[sys.executable, "-c", code],
            log=Path(tmp_path / "logs" / f"{method}.log"),
        )

    return build
