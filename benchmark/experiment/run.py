"""Run experiments from Python; `benchmark run` does the same from the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from benchmark.data import default_data_root
from benchmark.engine.files import read_metrics
from benchmark.experiment.environment import choose_device
from benchmark.experiment.experiment import Experiment
from benchmark.recipe import compose
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.store import add_record
from benchmark.utils.atomic import write_text


def run(
    method: str | None = None,
    dataset: str | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    work_dir: str | Path = "runs",
    leaderboards: str | Path | None = None,
    resume: bool = False,
) -> Record:
    """Train a teacher unless `work_dir` has it, distill a student from it, and evaluate both.

    A run that has a record in `work_dir` is not repeated; its record is returned.

    Args:
        method: Name of a registered method, or several joined by "+". May be given in `config` instead.
        dataset: Name of a registered dataset. May be given in `config` instead.
        config: A recipe merged over the built-in ones: a YAML file or a nested mapping, such as
            `{"train": {"schedule": {"epochs": 2}}}`.
        settings: Changes of single values, such as `["method.temperature=2"]`; they override `config`.
        seed: Seed of the student's training; 0 if neither this nor `config` gives one.
        device: "auto" (CUDA if available), "cpu" or "cuda".
        data_root: Folder of the datasets; `$BENCHMARK_DATA` or `~/.cache/benchmark` if None.
        work_dir: Folder of the runs. Trained teachers in it are reused.
        leaderboards: Folder of records and pages to which the run's record is added; None to not add it.
        resume: Continue an unfinished run instead of refusing it.

    Returns:
        The record of the run: scores, cost, recipe, environment.

    Raises:
        UserError: The recipe is invalid, data are missing, or an unfinished run exists and `resume` is false.
    """
    recipe = compose(method, dataset, Path(config) if isinstance(config, str) else config, settings, seed)
    root = default_data_root() if data_root is None else Path(data_root)
    experiment = Experiment(
        recipe, work_dir=Path(work_dir), data_root=root, device=choose_device(device), resume=resume
    )
    return run_experiment(experiment, None if leaderboards is None else Path(leaderboards))


def run_experiment(experiment: Experiment, leaderboards: Path | None) -> Record:
    """Run an experiment and add the records of student and teacher to the leaderboards.

    Args:
        experiment: The run.
        leaderboards: Folder of records and pages; None to not add the records.

    Returns:
        The record of the run.
    """
    if leaderboards is not None:
        records = leaderboards / "records"
        records.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(prefix=".", dir=records):
            pass  # if the folder is not writable, fail now instead of after hours of training
        experiment.require_same_board(records)
    record = experiment.run()
    folder, method = experiment.folder.path, experiment.preflight.method
    for name, svg in method.plots(read_metrics(folder)).items():
        write_text(folder / name, svg)
    if leaderboards is not None:
        add_record(record, records)
        if experiment.teacher_folder.record.exists():
            add_record(Record.read(experiment.teacher_folder.record), records)
        generate(leaderboards)
    return record
