"""Finished runs, for the evaluation and inspection of their networks."""

from collections.abc import Sequence
from pathlib import Path

import torch

from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.folders import teacher_folder
from benchmark.experiment.inputs import CHECKPOINT, PLUGIN_FILE, Inputs, data_changes, describe_data, weight_files
from benchmark.experiment.networks import deploy_teacher, frozen_teacher, teacher_from_file
from benchmark.experiment.published import teacher_path
from benchmark.model.embedder import Embedder
from benchmark.model.plugin import is_plugin
from benchmark.model.serialize import load_network
from benchmark.recipe import Recipe, compose
from benchmark.results.record import Record
from benchmark.utils.console import notify


class FinishedRun:
    """The networks of a finished run.

    Args:
        folder: The run's folder, `<work_dir>/<dataset>/<method>/seed<k>-<hash>`.
        data_root: Folder of all datasets.

    Raises:
        UserError: The folder is not a run folder, or the run is not finished.
    """

    def __init__(self, folder: Path, data_root: Path) -> None:
        self.folder = folder
        for name, reason in (("recipe.yaml", "is not the folder of a run"), ("student.pt", "has an unfinished run")):
            if not (folder / name).is_file():
                raise UserError(f"{folder} {reason}: it has no {name}. Give the folder that `benchmark run` prints")
        self.recipe: Recipe = compose(config=folder / "recipe.yaml")
        self._data_root = data_root

    @property
    def is_teacher(self) -> bool:
        """Whether this is the run of a teacher, which has no teacher itself."""
        return self.folder.resolve().parent.name == "teacher"

    def test_set(self, dataset: str | None, settings: Sequence[str], device: torch.device) -> TestSet:
        """Return the test images of a dataset, at the image size of the run and with its seed.

        Args:
            dataset: Name of the dataset; the dataset of the run if None.
            settings: Changes of dataset options and evaluation settings, each `key=value` as in a recipe.
            device: Device on which images are embedded.

        Raises:
            UserError: The dataset is unknown or missing, a setting is invalid, or the run's own images have changed
                and `dataset` is None.
        """
        if dataset is None or dataset == self.recipe.dataset.name:
            recipe = compose(config=self.folder / "recipe.yaml", settings=settings)
        else:
            recipe = compose("none", dataset, None, settings, self.recipe.seed)
        test = TestSet.from_recipe(recipe, self._data_root, device, self.recipe.image_size)
        test.dataset.prepare()
        if dataset is None and recipe.recorded()["dataset"] == self.recipe.recorded()["dataset"]:
            self._require_own_images(test)
        return test

    def _require_own_images(self, test: TestSet) -> None:
        file = self.folder / "record.json"
        before = Record.read(file).data if file.is_file() else None
        if before is None or before.fingerprint is None:
            notify(f"warning: {self.folder} does not state which images it used, so they cannot be compared")
        elif changes := "; ".join(data_changes(before, describe_data(test), test.dataset)):
            name = self.recipe.dataset.name
            raise UserError(
                f"{self.folder} is of other images than those at {test.dataset.folder} ({changes}): restore them, or "
                f"add --dataset {name} to use the present ones"
            )

    def _require_own_teacher(self) -> None:
        """Refuse a file or a run folder of the teacher that has changed since the run."""
        before, now = Inputs.read(self.folder), weight_files(self.recipe)
        teacher = self.recipe.teacher
        places = {f"teacher{CHECKPOINT}": teacher.checkpoint}
        places |= {f"teacher{PLUGIN_FILE}{key}": value for key, value in teacher.network.args.items()}
        for key, digest in () if before is None else before.files.items():
            if key in places and now.get(key, digest) != digest:
                raise UserError(
                    f"the teacher at {places[key]} is another one than {self.folder} was trained with: restore it, or "
                    "repeat the run with the present one"
                )

    def student(self, device: torch.device) -> Embedder:
        """Load the deployed student."""
        return load_network(self.folder / "student.pt", device)

    def teacher(self, test: TestSet) -> Embedder:
        """Load the deployed teacher of the student, the first of several.

        Args:
            test: The images that it will embed.

        Raises:
            UserError: The run is itself a teacher's, or its teacher was moved or deleted, or does not fit.
        """
        if self.is_teacher:
            raise UserError(f"{self.folder} is the run of a teacher, which has no teacher itself")
        self._require_own_teacher()
        device, checkpoint = torch.device(test.loading.device), self.recipe.teacher.checkpoint
        if is_plugin(self.recipe.teacher.network.backbone):
            return frozen_teacher(self.recipe.teacher.network, identities=0).to(device)
        if checkpoint is not None and not (path := teacher_path(checkpoint)).is_dir():
            if not path.exists():
                place = "" if path.is_absolute() else ", in the folder where the run was started"
                raise UserError(f"the teacher of {self.folder} is missing: there is no {path}{place}")
            teacher = teacher_from_file(self.recipe.teacher.network, path, identities=0)
            return deploy_teacher(teacher.to(device), test.first_queries(2))
        folder = teacher_folder(self.recipe, self.folder.resolve().parents[2])
        if not folder.student.is_file():
            raise UserError(f"the teacher of {self.folder} is missing: there is no {folder.student}")
        ours, theirs = Inputs.read(self.folder), Inputs.read(folder.path)
        if checkpoint is None and ours is not None and theirs is not None and ours.training != theirs.training:
            raise UserError(
                f"the teacher in {folder.path} was trained again, on other images than {self.folder}: run both again "
                "on the same images"
            )
        teacher = load_network(folder.student, device)
        teacher.input_size = None  # it may have been trained with images of another size
        return teacher
