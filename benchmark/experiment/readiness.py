"""Checks of a run's data, folders and machine before its first image is read.

`preflight` checks what the recipe alone shows to be impossible. Here are the checks that need the list of images, the
folders or the machine. They change nothing, so that `--dry-run` makes them, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.data.batch import PKBatchSampler
from benchmark.data.batch_loader import check_shared_memory
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.engine.plan import training_plan
from benchmark.engine.teacher_outputs import FOLDER as OUTPUTS_FOLDER
from benchmark.engine.teacher_outputs import most_bytes, require_outputs_suffice
from benchmark.errors import UserError
from benchmark.experiment.folders import RunFolder
from benchmark.experiment.networks import untrained
from benchmark.method import Method
from benchmark.model.cost import Size
from benchmark.model.plugin import is_plugin
from benchmark.model.pretrained import require_pretrained
from benchmark.recipe import Recipe
from benchmark.recipe.fitting import meta_network
from benchmark.registry import METHODS
from benchmark.results.store import load_records
from benchmark.utils.paths import user_path
from benchmark.utils.writable import require_writable

_RECORD_BYTES = 2**20
"""Space that records, pages and logs of a run need at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training that is part of a run and is not finished."""

    role: str
    """"student", or the key of the run's recipe that has the teacher, such as "teacher"."""
    recipe: Recipe
    """The recipe whose section `train` trains its `student`."""
    folder: RunFolder
    size: Size
    """Cost of the network before training."""

    @property
    def title(self) -> str:
        """What messages call the network: "student", "teacher", or for example "teacher 2"."""
        section, _, number = self.role.partition(".")
        return f"teacher {int(number) + 2}" if number else section

    @property
    def key(self) -> str:
        """The key of the run's recipe that has the settings of the training."""
        return "train" if self.role == "student" else f"{self.role}.train"

    @property
    def network_key(self) -> str:
        """The key of the run's recipe that describes the network."""
        return "student" if self.role == "student" else f"{self.role}.network"

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint in bytes, without the state of the method."""
        optimizer = self.recipe.train.optimizer
        moments = int(optimizer.momentum > 0) if optimizer.type == "sgd" else 2
        return 4 * self.size.parameters * (1 + moments)


def require_ready(trainings: Sequence[Training], dataset: RetrievalDataset) -> list[str]:
    """Check that trainings can begin: their images, weights, checkpoints and disk.

    Args:
        trainings: The trainings of a run that are not finished.
        dataset: The prepared dataset.

    Returns:
        Warnings.

    Raises:
        UserError: A training is impossible; a line for each reason.
    """
    problems = [problem for training in trainings for problem in _problems(training, dataset)]
    evaluate = [training.recipe.evaluate for training in trainings]
    wanted = ["images" for each in evaluate if each.images == "validation"] + [
        "every" for each in evaluate if each.every
    ]
    if wanted and not dataset.validation_fraction:
        problems.append(
            f"evaluate.{wanted[0]}: there are no validation images, and the test images are used only once, at the "
            "end: add --set dataset.validation_fraction=0.2 to hold out a fifth of the training identities"
        )
    if any(training.recipe.evaluate.epoch == "best" and not training.recipe.evaluate.every for training in trainings):
        problems.append("evaluate.epoch: best: nothing is validated: add --set evaluate.every=1, or a larger number")
    warnings = [warning for training in trainings for warning in _warnings(training)]
    if trainings:
        recipe = trainings[-1].recipe
        batch = max(recipe.evaluate.batch_size, *(training.recipe.train.sampler.batch_size for training in trainings))
        decoded = recipe.runtime.cache is not None
        try:
            notice = check_shared_memory(recipe.runtime.workers, batch, recipe.image_size, predecoded=decoded)
            warnings += [notice] if notice else []
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    if len(trainings) > 1:
        require_method(trainings[-1].recipe, dataset)
    if trainings:
        # A new checkpoint is complete before the old one is replaced, and deployed networks have their own files.
        needed = 2 * sum(training.checkpoint_bytes for training in trainings) + _RECORD_BYTES
        needed += _bytes_of_outputs(trainings[-1], dataset)
        require_writable(trainings[-1].folder.path, "--work-dir", needed)
        if cache := trainings[-1].recipe.runtime.cache:
            require_writable(user_path(cache), "--cache")
    return warnings


def _bytes_of_outputs(training: Training, dataset: RetrievalDataset) -> int:
    """Return the size of the teacher's outputs that a training stores at most; 0 if some of this size are there."""
    recipe = training.recipe
    views, root = recipe.teacher.cached_views, training.folder.path.parent.parent / OUTPUTS_FOLDER
    # Which of them fit is known only with the weights of the teacher, which may have to be trained.
    if training.role != "student" or not views or any(root.glob(f"{views}-views-*")):
        return 0
    return most_bytes(meta_network(recipe.teacher.network), len(dataset.train), len(dataset.labels), views)


def require_frozen_teacher(recipe: Recipe, folder: RunFolder) -> None:
    """Check that the published weights of a teacher that is not trained can be loaded, unless it is finished.

    Args:
        recipe: The recipe of the run.
        folder: The folder of its teacher.

    Raises:
        UserError: They cannot.
    """
    network = recipe.teacher.network
    needed = recipe.teacher.frozen and network.weights == "imagenet" and not is_plugin(network.backbone)
    if needed and not folder.record.exists():
        try:
            require_pretrained(network.backbone)
        except UserError as error:
            raise UserError(f"teacher.network.weights: {error}") from error


def require_record_store(leaderboards: Path) -> None:
    """Check that the folder of the leaderboards can be written to and that its records can be read.

    Raises:
        UserError: It cannot, or a record is not valid, so that no page could be generated after the run.
    """
    require_writable(leaderboards / "records", "--leaderboards", _RECORD_BYTES)
    try:
        load_records(leaderboards / "records")
    except UserError as error:
        raise UserError(
            f"{error}\nThe pages of the leaderboards cannot be generated: correct or remove the file, or choose "
            "another --leaderboards"
        ) from error


def require_method(recipe: Recipe, dataset: RetrievalDataset) -> None:
    """Check that the method can prepare itself for the student's training, with untrained networks.

    Otherwise a mistake would be found only after the teacher's training.

    Raises:
        UserError: It cannot, for example because a weight cannot be derived from the schedule.
    """
    cls, sampler = METHODS.find(recipe.method.name), recipe.train.sampler
    if cls.prepare is Method.prepare:
        return
    labels = [dataset.labels[sample.identity] for sample in dataset.train]
    steps = len(PKBatchSampler(labels, sampler.identities, sampler.images, seed=recipe.seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = cls(**recipe.method.arguments)
        student, *teachers = (
            untrained(network, len(dataset.labels))
            for network in (recipe.student, *(teacher.network for teacher in recipe.teachers))
        )
        teacher = method.needs.received(teachers) if method.needs.teacher else None
        method.prepare(student, teacher, training_plan(recipe, dataset, steps))
    require_outputs_suffice(method, recipe.method.name, recipe)


def _problems(training: Training, dataset: RetrievalDataset) -> Iterator[str]:
    """Yield why a training cannot begin, with the keys to change."""
    recipe, identities = training.recipe, len(dataset.labels)
    if identities < 2:
        yield f"{dataset.name} has {identities} training identities: at least 2 are needed"
    elif recipe.train.sampler.identities > identities:
        yield (
            f"{training.key}.sampler.identities: a batch of {recipe.train.sampler.identities} identities cannot be "
            f"drawn from the {identities} training identities of {dataset.name}: set it to {identities} or fewer"
        )
    try:
        recipe.evaluate.embedding_format.require_training(len(dataset.train))
    except ValueError as error:
        yield f"evaluate.embedding: {recipe.evaluate.embedding}: {error}"
    if training.folder.checkpoint.exists():
        from benchmark.engine.checkpoint import read_checkpoint, training_hash  # imports mmengine

        try:
            epochs = recipe.train.schedule.epochs
            # Lazily, because the training reads it again.
            read_checkpoint(training.folder.checkpoint, training_hash(recipe, type(dataset)), epochs, lazily=True)
        except UserError as error:
            yield str(error)
    elif recipe.student.weights == "imagenet":
        try:
            require_pretrained(recipe.student.backbone)
        except UserError as error:
            yield f"{training.network_key}.weights: {error}"


def _warnings(training: Training) -> Iterator[str]:
    schedule, key = training.recipe.train.schedule, f"{training.key}.schedule"
    if schedule.warmup_epochs >= schedule.epochs:
        yield (
            f"{key}: the whole training of the {training.title} is warm-up ({schedule.epochs} of "
            f"{schedule.warmup_epochs} warmup_epochs): set {key}.warmup_epochs below {key}.epochs"
        )
    elif schedule.constant_until > schedule.epochs:
        yield (
            f"{key}: the learning rate of the {training.title} never decays, because constant_until is "
            f"{schedule.constant_until} and there are {schedule.epochs} epochs"
        )
