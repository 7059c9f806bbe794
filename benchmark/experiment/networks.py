"""The networks of a run: students with their initial weights, and teachers from files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.errors import UserError
from benchmark.experiment.published import teacher_path
from benchmark.model.backbone import pretrained_interpolation, pretrained_statistics
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.plugin import forget_plugins, is_plugin
from benchmark.model.residual_blocks import build
from benchmark.model.serialize import is_student, load_network
from benchmark.model.weight_file import read
from benchmark.model.weights import fit_weights, load_weights
from benchmark.recipe import Network, Recipe
from benchmark.utils.console import notify
from benchmark.utils.paths import user_path

NAMED_WEIGHTS = ("imagenet", "random", "teacher")
"""Values of the recipe's key `weights` that are not files."""


def untrained(settings: Network, identities: int, like: Embedder | None = None) -> Embedder:
    """Build a network with random weights.

    Images are normalized and resized as for the backbone's published weights, unless the recipe's initial weights are
    random: then with the statistics of ImageNet, and bilinearly.

    Args:
        settings: The architecture.
        identities: Number of classes of the head.
        like: A network as whose images they are normalized and resized instead.
    """
    images: dict[str, Any] = {}
    if like is not None:
        images = {"mean": like.statistics[0], "std": like.statistics[1], "interpolation": like.interpolation}
    elif settings.weights != "random":
        mean, std = pretrained_statistics(settings.backbone) or (None, None)
        images = {"mean": mean, "std": std, "interpolation": pretrained_interpolation(settings.backbone)}
    return build(**settings.model_dump(exclude={"weights"}), identities=identities, **images)


def initialized(settings: Network, identities: int, teacher: Embedder | None) -> Embedder:
    """Build a network with the initial weights of a recipe, in float32 on the CPU.

    Args:
        settings: Architecture and weights.
        identities: Number of classes of the head.
        teacher: The teacher; needed for `weights: teacher`.

    Raises:
        UserError: The weights cannot be loaded, or do not fit.
    """
    if settings.weights == "imagenet":
        return build(**settings.model_dump(exclude={"weights"}), identities=identities, pretrained=True)
    if settings.weights == "teacher":
        assert teacher is not None, "preflight refuses a teacher with weights: teacher"
        network, state = untrained(settings, identities, teacher), teacher.state_dict()
        if state.keys() != network.state_dict().keys():
            raise UserError(
                "student.weights: 'teacher' needs the teacher as it was trained, with its batch norms and classifier: "
                "set teacher.checkpoint to its run folder instead of a file"
            )
        network.load_state_dict(state, strict=True)
        return network
    network = untrained(settings, identities)
    if settings.weights != "random":
        notify(load_weights(network, user_path(settings.weights)))
    return network


def teacher_from_file(settings: Network, path: Path, identities: int) -> Embedder:
    """Load a trained teacher from a file of weights, or from its deployed form, `student.pt`.

    Args:
        settings: The recipe's section `teacher.network`.
        path: The file.
        identities: Number of training identities. The teacher has a head only if the file has one for so many.

    Returns:
        The teacher in eval mode, on the CPU.

    Raises:
        UserError: The file cannot be read, or is not of this architecture.
    """
    if not is_student(read(path, "weights")):
        network = untrained(settings, identities)
        notify(load_weights(network, path, trained=True))
        return network.eval()
    network = load_network(path)
    network.input_size = None  # the teacher's own image size may be another one
    _require_same_architecture(settings, network, path)
    return network


def frozen_teacher(settings: Network, identities: int) -> Embedder:
    """Build a teacher that is used as it is, with its published weights or those of a file.

    Args:
        settings: The recipe's section `teacher.network`.
        identities: Number of training identities. The teacher has a head only if the file has one for so many.

    Returns:
        The teacher in eval mode, on the CPU.

    Raises:
        UserError: The weights cannot be loaded, or do not fit.
    """
    if is_plugin(settings.backbone):
        network = build(**settings.model_dump(exclude={"weights"}), pretrained=True).eval()
        network.head = network.backbone.classifier()
        forget_plugins()
        return network
    if settings.weights in NAMED_WEIGHTS:
        return initialized(settings, 0, None).eval()
    network = untrained(settings, identities)
    notify(load_weights(network, user_path(settings.weights), trained=True))
    return network.eval()


def deploy_teacher(teacher: Embedder, images: Tensor) -> Embedder:
    """Return a teacher in its deployed form: without its classifier, and with batch norm folded.

    Args:
        teacher: The teacher, in eval mode.
        images: Two or more images, on the teacher's device.
    """
    network = fold_batchnorm(teacher, images)
    network.head = None
    return network


def for_each_teacher(recipe: Recipe, check: Callable[[Recipe], None]) -> None:
    """Make a check of a recipe with each of its teachers as the only one.

    Raises:
        UserError: The check has raised it. The keys in the message are those of this teacher.
    """
    for key, part in zip(recipe.teacher_keys, recipe.per_teacher(), strict=True):
        try:
            check(part)
        except UserError as error:
            if part.teacher is recipe.teacher:
                raise
            # `--set` changes only the first teacher.
            raise UserError(re.sub(r"(--set )?\bteacher\.(?=[a-z])", f"{key}.", str(error))) from error


def check_files(
    teacher: Network, student: Network, checkpoint: str | None, *, classifier: bool = False, frozen: bool = False
) -> None:
    """Check that the files of weights that a recipe names can be read and fit, before anything is trained.

    Args:
        teacher: The recipe's section `teacher.network`.
        student: The recipe's section `student`.
        checkpoint: The recipe's `teacher.checkpoint`.
        classifier: Whether the method needs the teacher's classifier.
        frozen: Whether the teacher is not trained, so that the file has to have all of it.

    Raises:
        UserError: A file is missing, damaged or of another architecture; the message begins with the key.
    """
    files: list[tuple[str, Network, Path, bool]] = []
    if checkpoint is not None:
        path = teacher_path(checkpoint)
        if path.is_dir() and not (path / "record.json").is_file():
            raise UserError(f"teacher.checkpoint: {path} is not the folder of a finished run: it has no record.json")
        files.append(("teacher.checkpoint", teacher, path / LAST_CHECKPOINT if path.is_dir() else path, True))
    elif teacher.weights not in NAMED_WEIGHTS:
        files.append(("teacher.network.weights", teacher, user_path(teacher.weights), frozen))
    if student.weights not in NAMED_WEIGHTS:
        files.append(("student.weights", student, user_path(student.weights), False))
    for key, settings, path, trained in files:
        try:
            identities = 0
            if key == "teacher.checkpoint" and is_student(read(path, "weights")):
                _require_same_architecture(settings, load_network(path), path)
            else:
                with torch.device("meta"):
                    network = untrained(settings, identities=2)
                identities = fit_weights(network, path, trained).identities
            if trained and classifier and not identities:
                raise UserError(
                    f"{path} has no classifier, which the method needs: give the folder of the teacher's run or its "
                    "checkpoints/last.pt, or choose a method that compares embeddings or feature maps"
                )
        except UserError as error:
            raise UserError(f"{key}: {error}") from error


def _require_same_architecture(settings: Network, network: Embedder, path: Path) -> None:
    """Raise a UserError unless a deployed network has the architecture of a recipe and is not compressed."""
    with torch.device("meta"):
        expected = untrained(settings, identities=0)
    wanted, actual = (json.loads(json.dumps(each.architecture)) for each in (expected, network))
    for key in sorted((wanted.keys() | actual.keys()) - {"mean", "std", "interpolation"}):
        if wanted.get(key) != actual.get(key):
            raise UserError(
                f"{path} is of another architecture: {key} is {actual.get(key)!r} in the file and {wanted.get(key)!r} "
                f"in the recipe; set teacher.network.{key} to the former"
            )
    shapes = {name: value.shape for name, value in expected.state_dict().items()}
    if any(value.shape != shapes.get(name, value.shape) for name, value in network.state_dict().items()):
        raise UserError(f"{path} is of a compressed network, which no recipe describes: give an uncompressed teacher")
