"""One run of a suite."""

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmark.engine.hooks import read_metrics
from benchmark.recipe import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A run, the folders in which it works, and the command that does it."""

    recipe: Recipe
    folder: Path
    """Of the student's run."""
    record: Path
    """Where its record will be."""
    teacher_record: Path | None
    """Where the record of its teacher will be; None where a teacher is given."""
    teacher_epochs: int
    """Of that training."""
    arguments: tuple[str, ...]
    """Of `benchmark run`."""
    log: Path
    """What the command prints."""

    @property
    def teacher(self) -> Path | None:
        """The folder in which its teacher is trained."""
        return None if self.teacher_record is None else self.teacher_record.parent

    @property
    def name(self) -> str:
        """ "kd on veri776, seed 1"."""
        return f"{self.recipe.method.name} on {self.recipe.dataset.name}, seed {self.recipe.seed}"

    @property
    def command(self) -> list[str]:
        """What does the run, or goes on with it; in any process."""
        return [sys.executable, "-m", "benchmark", "run", *self.arguments, "--resume"]

    @property
    def epochs(self) -> int:
        """Of the student's training."""
        return self.recipe.train.schedule.epochs

    def last_log_line(self) -> str:
        """The last line that the run has printed."""
        if not self.log.is_file():
            return "nothing was printed"
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was printed")


def epochs_done(folder: Path) -> int:
    """Epochs of training that a run's folder holds."""
    rows = read_metrics(folder)
    return int(rows[-1]["epoch"]) if rows else 0
