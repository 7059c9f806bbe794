"""Which images a run could not read."""

from collections.abc import Iterable
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console

from benchmark.atomic import write_text

SKIPPED = "skipped.txt"


def read_skipped(folder: Path) -> list[str]:
    """The image files that a run has left out so far because they are broken."""
    file = folder / SKIPPED
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def note_skipped(folder: Path, paths: Iterable[Path]) -> None:
    """Add image files to the run's list, and say how many are new."""
    known = read_skipped(folder)
    new = sorted({str(path) for path in paths} - set(known))
    if new:
        write_text(folder / SKIPPED, "".join(f"{path}\n" for path in sorted([*known, *new])))
        shown = f"skipped {len(new)} broken image{'' if len(new) == 1 else 's'}, such as {new[0]}: {folder / SKIPPED}"
        Console(stderr=True).print(shown, highlight=False, soft_wrap=True, markup=False)


class SkippedHook(Hook):
    """Keeps the list of broken images that training has met, epoch by epoch, so that a resumed run knows them too."""

    priority = "LOW"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_train_epoch(self, runner: Runner) -> None:
        note_skipped(self.folder, runner.train_dataloader.source.images.broken())
