"""A run whose student is trained, to be judged again."""

from pathlib import Path

import torch

from benchmark.errors import UserError
from benchmark.model.deployed import load_student
from benchmark.model.embedder import Embedder
from benchmark.recipe import Recipe, compose
from benchmark.registry import DATASETS
from benchmark.run_folders import RunFolders


class FinishedRun:
    """The networks of a run's folder.

    Args:
        folder: `<work dir>/<dataset>/<method>/seed<k>-<hash>`.
        data_root: Where datasets live.

    Raises:
        UserError: It is no folder of a finished run.
    """

    def __init__(self, folder: Path, data_root: Path) -> None:
        self.folder = folder
        for name, reason in (("recipe.yaml", "is no run's folder"), ("student.pt", "holds a run that is not finished")):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} {reason}: it has no {name}. `benchmark run` ends with the folder to name here"
                )
        self.recipe: Recipe = compose(config=folder / "recipe.yaml")
        self._data_root = data_root

    @property
    def is_teacher(self) -> bool:
        """Whether the folder is a teacher's own, which has no other teacher."""
        return self.folder.resolve().parent.name == "teacher"

    def student(self, device: torch.device) -> Embedder:
        """The deployed student."""
        return load_student(self.folder / "student.pt", device)

    def teacher(self, device: torch.device) -> Embedder:
        """The deployed teacher of the student.

        Raises:
            UserError: The run is a teacher's, or its teacher is not where it was.
        """
        if self.is_teacher:
            raise UserError(f"{self.folder} is a teacher's run, which has no other teacher")
        checkpoint = self.recipe.teacher.checkpoint
        if checkpoint is not None:
            folder = Path(checkpoint)
        else:
            arguments = self.recipe.dataset.arguments
            dataset = DATASETS.find(self.recipe.dataset.name)(self._data_root, **arguments)
            work_dir = self.folder.resolve().parents[2]
            folder = RunFolders(work_dir, dataset).folder(self.recipe.for_teacher(), "teacher")
        if not (folder / "student.pt").is_file():
            raise UserError(f"the teacher of {self.folder} is not in {folder}, where a run would have left student.pt")
        return load_student(folder / "student.pt", device)
