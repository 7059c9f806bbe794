"""A run whose student is trained, to be judged again."""

from collections.abc import Sequence
from pathlib import Path

import torch

from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.folders import RunFolders
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import load_student
from benchmark.recipe import Recipe, compose
from benchmark.registry import DATASETS


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

    def test_set(self, dataset: str | None, settings: Sequence[str], device: torch.device) -> TestSet:
        """The test images of the run's own dataset, or of another one, at the size that the student was trained on.

        Args:
            dataset: The other one; None for its own.
            settings: Changes of the dataset's options and of the rules, as `key=value` of a recipe.
            device: Where to compute.

        Raises:
            UserError: The dataset is not there, or an option is wrong.
        """
        if dataset is None or dataset == self.recipe.dataset.name:
            recipe = compose(config=self.folder / "recipe.yaml", settings=settings)
        else:
            recipe = compose("none", dataset, None, settings)
        test = TestSet.from_recipe(recipe, self._data_root, device, self.recipe.image_size)
        test.dataset.prepare()
        return test

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
