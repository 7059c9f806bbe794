import sys

import pytest

from benchmark.recipe import compose, with_budget
from benchmark.suite.grid import Grid
from benchmark.suite.job import Job, RunOptions

SMALL = ["dataset.train_identities=100", "dataset.test_identities=10"]


def test_command_repeats_all_options(tmp_path, tiny_config, tiny):
    options = RunOptions(
        device="cpu",
        data_root=tmp_path / "data",
        work_dir=tmp_path / "runs",
        leaderboards=tmp_path / "boards",
        plugins=[tmp_path / "plugin.py"],
    )
    job = Job.of(tiny("kd"), options, config=tiny_config, settings=["runtime.threads=1"])
    assert job.command == [
        *(sys.executable, "-m", "benchmark", "run", "--method", "kd", "--dataset", "glyphs", "--seed", "0"),
        *("--device", "cpu", "--data-root", str(tmp_path / "data"), "--work-dir", str(tmp_path / "runs")),
        *("--leaderboards", str(tmp_path / "boards"), "--config", str(tiny_config), "--set", "runtime.threads=1"),
        *("--plugin", str(tmp_path / "plugin.py"), "--resume"),
    ]
    assert job.command_line.startswith("benchmark run --method kd ")
    assert job.name == "kd on glyphs, seed 0"
    assert job.record.parent.parent == tmp_path / "runs" / "glyphs" / "kd"
    assert job.teacher_records[0].parent.parent == tmp_path / "runs" / "glyphs" / "teacher"
    assert job.trainings == {job.record.parent: 2, job.teacher_records[0].parent: 2}


def test_command_of_several_processes(tmp_path, tiny):
    options = RunOptions(device="cpu", data_root=tmp_path, work_dir=tmp_path, leaderboards=tmp_path, processes=4)
    job = Job.of(tiny("kd"), options)
    assert job.command[:6] == [sys.executable, "-m", "benchmark.suite.together", "4", "run", "--method"]
    start = "torchrun --standalone --nproc-per-node 4 -m benchmark -- run --method kd "
    assert job.command_line.startswith(start)


@pytest.mark.parametrize("method", ["none", "cdd"])
def test_runs_at_several_budgets_are_apart(tmp_path, method):
    """Each has a command of its own recipe, and files of its own."""
    options = RunOptions(device="cpu", data_root=tmp_path, work_dir=tmp_path, leaderboards=tmp_path)
    grid = Grid(methods=[method], datasets=["glyphs2"], seeds=[0], budgets=[0.42, 0.2], settings=SMALL)
    jobs = [Job.of(recipe, options, settings=grid.settings) for recipe in grid.recipes()]
    for job in jobs:
        given = dict(zip(job.command[4:-1:2], job.command[5:-1:2], strict=True))
        settings = [*with_budget(float(given["--budget"])), *grid.settings]
        assert compose(given["--method"], given["--dataset"], settings=settings).hash == job.recipe.hash
    for attribute in ("id", "name", "log", "record"):
        assert len({getattr(job, attribute) for job in jobs}) == 2


def test_teacher_from_a_checkpoint_is_not_trained(tmp_path):
    recipe = compose("none", "glyphs", None, [f"teacher.checkpoint={tmp_path}", "train.schedule.epochs=3"])
    options = RunOptions(device="cpu", data_root=tmp_path, work_dir=tmp_path, leaderboards=tmp_path)
    job = Job.of(recipe, options)
    assert job.teacher_records == ()
    assert job.trainings == {job.record.parent: 3}


def test_last_log_line(stub_job):
    job = stub_job("none")
    assert job.last_log_line() == "no output"
    job.log.parent.mkdir()
    job.log.write_bytes(b"first\nRuntimeError: \xff broken\n\n  \n")
    assert job.last_log_line() == "RuntimeError: \ufffd broken"


def test_runs_of_a_pair(tmp_path):
    options = RunOptions(device="cpu", data_root=tmp_path, work_dir=tmp_path, leaderboards=tmp_path)
    grid = Grid.from_file(None, pair="air-r101-r18-sop")
    job = Job.of(*grid.recipes(), options, pair=grid.pair)
    assert " --method d3still --dataset sop " in job.command_line
    assert " --pair air-r101-r18-sop --resume" in job.command_line
    assert job.recipe.pair.name == grid.pair
