"""One run of a suite, as a command."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from benchmark.engine.files import read_metrics
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.folders import resolved, student_folder, teacher_folder
from benchmark.recipe import Recipe
from benchmark.results.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of `benchmark run` that all runs of a suite share."""

    device: str
    data_root: Path
    work_dir: Path
    leaderboards: Path
    plugins: Sequence[Path] = ()
    processes: int = 1
    """Number of processes that share each run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A run, its files, and the command that starts or resumes it."""

    recipe: Recipe
    """The recipe with resolved dataset options, as in the record of the run."""
    record: Path
    """Path of the student's record, in the run folder."""
    teacher_records: tuple[Path, ...]
    """Paths of the records of the teachers, except for those from checkpoints."""
    command: Sequence[str]
    """The command. It can run in any process that has access to the same files."""
    log: Path
    """File for the output of the command."""
    processes: int = 1
    """Number of processes that share the run."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        options: RunOptions,
        *,
        preset: str | None = None,
        pair: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
        threads: int | None = None,
    ) -> Self:
        """Return the job of a recipe.

        Args:
            recipe: The composed recipe.
            options: Options shared by all runs of the suite.
            preset: The preset from which `recipe` is composed.
            pair: The pair from which `recipe` is composed.
            config: The recipe file from which `recipe` is composed.
            settings: The `key=value` settings from which `recipe` is composed.
            threads: Number of threads of each process if the recipe leaves it open; None for one per core.
        """
        test = TestSet.from_recipe(recipe, options.data_root, torch.device("cpu"))
        recipe = resolved(recipe, test.dataset)
        own = [part for part in recipe.per_teacher() if part.teacher.checkpoint is None]
        method, dataset = recipe.method.name, recipe.dataset.name
        repeated = [] if preset is None else [("--preset", preset)]
        repeated += [] if pair is None else [("--pair", pair)]
        repeated += [] if config is None else [("--config", str(config))]
        repeated += [] if recipe.budget is None else [("--budget", str(recipe.budget))]
        repeated += [("--set", setting) for setting in settings]
        if recipe.runtime.threads is None and threads is not None:
            repeated.append(("--set", f"runtime.threads={threads}"))
        repeated += [("--plugin", str(path)) for path in options.plugins]
        several = options.processes > 1
        module = ["benchmark.suite.together", str(options.processes)] if several else ["benchmark"]
        command = [
            *(sys.executable, "-m", *module, "run"),
            *("--method", method, "--dataset", dataset, "--seed", str(recipe.seed), "--device", options.device),
            *("--data-root", str(options.data_root), "--work-dir", str(options.work_dir)),
            *("--leaderboards", str(options.leaderboards)),
            *(part for option in repeated for part in option),
            "--resume",
        ]
        record = student_folder(recipe, options.work_dir).record
        return cls(
            recipe=recipe,
            record=record,
            teacher_records=tuple(teacher_folder(part, options.work_dir).record for part in own),
            command=command,
            log=options.work_dir / "suite" / f"{dataset}-{method}-{record.parent.name}.log",
            processes=options.processes,
        )

    @property
    def name(self) -> str:
        """Display name, such as "kd on veri776, budget 0.3, seed 1"."""
        budget = "" if self.recipe.budget is None else f", budget {self.recipe.budget:g}"
        return f"{self.recipe.method.name} on {self.recipe.dataset.name}{budget}, seed {self.recipe.seed}"

    @property
    def id(self) -> str:
        """The id of the student's record."""
        return Record.make_id(self.recipe.hash, "student")

    @property
    def command_line(self) -> str:
        """The command as a user types it."""
        options = self.command[self.command.index("run") :]
        if self.processes == 1:
            return shlex.join(["benchmark", *options])
        start = ["torchrun", "--standalone", "--nproc-per-node", str(self.processes), "-m", "benchmark", "--"]
        return shlex.join([*start, *options])

    @property
    def trainings(self) -> dict[Path, int]:
        """Numbers of epochs of the student and of the teachers that are trained, by run folder."""
        own = [teacher for teacher in self.recipe.teachers if teacher.checkpoint is None]
        return {self.record.parent: self.recipe.train.schedule.epochs} | {
            record.parent: teacher.train.schedule.epochs
            for record, teacher in zip(self.teacher_records, own, strict=True)
            if teacher.is_trained
        }

    def last_log_line(self) -> str:
        """Return the last line of the log that is not empty."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.is_file() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def epochs_done(folder: Path) -> int:
    """Return the number of finished epochs of the training in a run folder; 0 if its metrics cannot be read."""
    try:
        rows = read_metrics(folder)
    except UserError:  # the run itself reports it
        return 0
    return int(rows[-1]["epoch"]) if rows else 0
