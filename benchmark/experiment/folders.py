"""The folders of runs and of their teachers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.errors import UserError
from benchmark.evaluation import with_seed
from benchmark.experiment.published import teacher_path
from benchmark.recipe import Component, Recipe
from benchmark.registry import DATASETS
from benchmark.utils.locks import is_locked, locked


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run, `<work_dir>/<dataset>/<method>/seed<k>-<hash>/`.

    Recipes that differ only in the evaluation train the same network and share a folder. With default evaluation
    settings, the files are `recipe.yaml` and `record.json`, with others `recipe-<hash>.yaml` and `record-<hash>.json`.
    """

    path: Path
    suffix: str = ""
    """`-<hash>` for non-default evaluation settings, else empty."""

    @property
    def recipe(self) -> Path:
        """The complete recipe."""
        return self.path / f"recipe{self.suffix}.yaml"

    @property
    def record(self) -> Path:
        """The record, which exists once the run is finished."""
        return self.path / f"record{self.suffix}.json"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint from which an unfinished training is resumed."""
        return self.path / LAST_CHECKPOINT

    @property
    def student(self) -> Path:
        """The deployed network; in the folder of a teacher, the deployed teacher."""
        return self.path / "student.pt"

    @property
    def is_unfinished(self) -> bool:
        """Whether the folder has a checkpoint but no record, under any evaluation settings."""
        return self.checkpoint.exists() and not any(self.path.glob("record*.json"))

    @property
    def is_in_use(self) -> bool:
        """Whether a process holds the lock of the folder."""
        return is_locked(self.path / ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and hold its lock; wait while another process works in it.

        Raises:
            UserError: The folder cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the run's folder {self.path} cannot be created: {error.strerror}") from error
        with locked(self.path / ".lock", f"works in {self.path}"):
            yield


def student_folder(recipe: Recipe, work_dir: Path) -> RunFolder:
    """Return the folder of a recipe's student.

    Args:
        recipe: A recipe with resolved dataset options; see `resolved`.
        work_dir: Folder of all runs.
    """
    return _folder(recipe, recipe.method.name, work_dir)


def teacher_folder(recipe: Recipe, work_dir: Path) -> RunFolder:
    """Return the folder of a recipe's teacher: `teacher.checkpoint` if it is set, even if that is a file.

    Args:
        recipe: A recipe with resolved dataset options; see `resolved`.
        work_dir: Folder of all runs.
    """
    if recipe.teacher.checkpoint is not None:
        return RunFolder(teacher_path(recipe.teacher.checkpoint))
    return _folder(recipe.for_teacher(), "teacher", work_dir)


def resolved(recipe: Recipe, dataset: RetrievalDataset) -> Recipe:
    """Return the recipe with the option values of `dataset`, for example the run's seed where the recipe has None."""
    options = {name: getattr(dataset, name) for name in recipe.dataset.arguments}
    return recipe.model_copy(update={"dataset": Component(name=recipe.dataset.name, **options)})


def _folder(recipe: Recipe, name: str, work_dir: Path) -> RunFolder:
    training = _with_default_evaluation(recipe)
    path = work_dir / recipe.dataset.name / name / f"seed{recipe.seed}-{training.hash[:8]}"
    return RunFolder(path, "" if training.hash == recipe.hash else f"-{recipe.hash[:8]}")


def _with_default_evaluation(recipe: Recipe) -> Recipe:
    """Return the recipe that trains the same network and evaluates it with the default settings."""
    dataset = DATASETS.find(recipe.dataset.name)
    defaults = {name: option.default for name, option in signature(dataset).parameters.items()}
    options = with_seed({name: defaults[name] for name in dataset.evaluation_options}, recipe.seed)
    return recipe.model_copy(
        update={
            "dataset": Component(name=recipe.dataset.name, **recipe.dataset.arguments | options),
            "evaluate": recipe.evaluate.of_training(),
        }
    )
