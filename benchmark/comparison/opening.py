"""The runs that a user names."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.comparison.compared_run import ComparedRun
from benchmark.errors import UserError


def open_runs(folders: Sequence[Path]) -> dict[str, ComparedRun]:
    """The runs in the order given, each under a name as short as tells them apart: "kd", "kd seed1-0123abcd", the path.

    Raises:
        UserError: They are fewer than two, one is named twice, or one is no finished run.
    """
    if len(folders) < 2:
        raise UserError("a comparison is of two runs or more: name another folder")
    places: dict[Path, Path] = {}
    for folder in folders:
        earlier = places.setdefault(folder.resolve(), folder)
        if earlier is not folder:
            raise UserError(f"{folder} is the same run as {earlier}: name each folder once")
    runs = [ComparedRun.read(folder) for folder in folders]
    methods = [run.row.method for run in runs]
    seeds = [f"{run.row.method} {place.name}" for run, place in zip(runs, places, strict=True)]
    paths = [str(folder) for folder in folders]
    names = next(names for names in (methods, seeds, paths) if len(set(names)) == len(runs))
    return dict(zip(names, runs, strict=True))
