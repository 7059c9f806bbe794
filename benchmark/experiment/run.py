"""Run experiments from Python; `benchmark run` does the same from the command line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.data import default_data_root
from benchmark.engine.files import read_metrics
from benchmark.errors import UserError
from benchmark.experiment.environment import choose_device
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.readiness import require_record_store
from benchmark.recipe import compose, remarks, student_only, use_teacher
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.store import add_record
from benchmark.utils.atomic import write_text
from benchmark.utils.console import notify
from benchmark.utils.distributed import on_main, process_group


def run(
    method: str | None = None,
    dataset: str | None = None,
    *,
    preset: str | None = None,
    pair: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    teacher: str | Sequence[str] | None = None,
    seed: int | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    work_dir: str | Path = "runs",
    leaderboards: str | Path | None = None,
    resume: bool = False,
) -> Record:
    """Train a teacher unless `work_dir` has it, distill a student from it, and evaluate both.

    If several processes call it, as started by `torchrun`, they share the run.

    A run that has a record in `work_dir` is not repeated; its record is returned.

    Args:
        method: Name of a registered method, or several joined by "+". May be given by `preset` or `config` instead.
        dataset: Name of a registered dataset. May be given by `preset` or `config` instead.
        preset: Name of a preset, the released settings of another project.
        pair: Name of a pair, a published result to compare the run with, in place of a preset.
        config: A recipe merged over the built-in ones and the preset: a YAML file or a nested mapping, such as
            `{"train": {"schedule": {"epochs": 2}}}`.
        settings: Changes of single values, such as `["method.temperature=2"]`; they override `config`.
        teacher: A published teacher (`sha256:...`), a run folder, a file of weights, or "train" to train one, or
            several of them; None for the teacher in the recipe.
        seed: Seed of the student's training; 0 if neither this nor `config` gives one.
        device: "auto" (CUDA if available) or the name of a device: see `choose_device`.
        data_root: Folder of the datasets; `$BENCHMARK_DATA` or `~/.cache/benchmark` if None.
        work_dir: Folder of the runs. Trained teachers in it are reused.
        leaderboards: Folder of records and pages to which the run's record is added; None to not add it.
        resume: Continue an unfinished run instead of refusing it.

    Returns:
        The record of the run: scores, cost, recipe, environment.

    Raises:
        UserError: The recipe is invalid, data are missing, or an unfinished run exists and `resume` is false.
    """
    layer = Path(config) if isinstance(config, str) else config
    recipe = compose(method, dataset, layer, [*use_teacher(teacher), *settings], seed, preset, pair)
    notes = student_only(layer, settings) if any(each.is_trained for each in recipe.teachers) else []
    for sentence in (*notes, *remarks(recipe.pair)):
        notify(f"note: {sentence}")
    root = default_data_root() if data_root is None else Path(data_root)
    chosen = choose_device(device)
    boards = None if leaderboards is None else Path(leaderboards)
    with process_group(chosen):
        experiment = Experiment(recipe, work_dir=Path(work_dir), data_root=root, device=chosen, resume=resume)
        if boards is not None:
            on_main(lambda: require_leaderboards(experiment, boards))
        record = experiment.run()
        on_main(lambda: publish(experiment, record, boards))
    return record


def require_leaderboards(experiment: Experiment, leaderboards: Path) -> None:
    """Check that the records of a run can be added to the leaderboards, before anything is trained.

    Raises:
        UserError: The folder cannot be written to, a record in it is not valid, or it has this run's record, or its
            teacher's, of other data.
    """
    require_record_store(leaderboards)
    experiment.require_same_board(leaderboards / "records")


def publish(experiment: Experiment, record: Record, leaderboards: Path | None) -> None:
    """Write the plots of a finished run, add its record and its teachers' to the leaderboards, and write pages.

    A plot or page that cannot be written is a warning, because the records are safe.

    Args:
        experiment: The run.
        record: Its record.
        leaderboards: Folder of records and pages; None to not add the records.

    Raises:
        UserError: A record cannot be added; it remains in the run folder.
    """
    folder, method = experiment.folder.path, experiment.preflight.method
    with _warned("the plots"):
        for name, svg in method.plots(read_metrics(folder)).items():
            write_text(folder / name, svg)
    if leaderboards is None:
        return
    records = leaderboards / "records"
    try:
        add_record(record, records)
        for teacher in experiment.teacher_folders:
            if teacher.record.exists():
                add_record(Record.read(teacher.record), records)
    except OSError as error:
        raise UserError(
            f"{error.filename or records}: {error.strerror or error}. The record is safe in {folder}: repeat the "
            "command to add it to the leaderboards"
        ) from error
    write_pages(leaderboards)


def write_pages(leaderboards: Path) -> None:
    """Generate the pages of the leaderboards; if that fails, print a warning, because the records are safe."""
    with _warned("the pages of the leaderboards"):
        generate(leaderboards)


@contextmanager
def _warned(what: str) -> Iterator[None]:
    """Print a warning in place of an error about something that is generated from safe records."""
    try:
        yield
    except (UserError, OSError) as error:
        notify(f"warning: {what} could not be written: {error}")
