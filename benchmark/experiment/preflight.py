"""Whether a method can work on a pair of networks: found out before anything is trained."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmark.errors import UserError, nearest
from benchmark.experiment.environment import choose_device
from benchmark.experiment.experiment import Experiment
from benchmark.method import Method, RecipePlan
from benchmark.model import cost
from benchmark.model.embedder import Embedder
from benchmark.model.features import stage_channels
from benchmark.recipe import Recipe
from benchmark.registry import METHODS


def checked_experiment(recipe: Recipe, work_dir: Path, data_root: Path, device: str, resume: bool) -> Experiment:
    """The experiment, once all is known to be right that can be known before the first image is read.

    A student that cannot be built would otherwise show only when its teacher is trained.

    Raises:
        UserError: Something the recipe names does not exist, or does not go together.
    """
    chosen = choose_device(device)
    method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
    for key, network in (("teacher.network", recipe.teacher.network), ("student", recipe.student)):
        try:
            with torch.device("meta"):
                built = Embedder(**network.model_dump(exclude={"weights"}))
            cost.count(built, recipe.image_size)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        except (AssertionError, RuntimeError) as error:
            height, width = recipe.image_size
            raise UserError(f"{key}: {network.backbone} takes no {height} x {width} images: {error}") from error
        if network.weights not in ("imagenet", "random", "teacher") and not Path(network.weights).is_file():
            raise UserError(
                f"{key}.weights: {network.weights!r} is neither a file nor one of imagenet, random and teacher"
                f"{nearest(network.weights, ('imagenet', 'random', 'teacher'))}"
            )
    check_pairing(method, recipe)
    checkpoint = recipe.teacher.checkpoint
    if checkpoint is not None and not Path(checkpoint).exists():
        raise UserError(f"teacher.checkpoint: {checkpoint} does not exist")
    backend = recipe.runtime.compile
    if backend is not None and backend not in (known := torch.compiler.list_backends(())):
        raise UserError(
            f"runtime.compile: unknown backend {backend!r}{nearest(backend, known)} Known: {', '.join(known)}."
        )
    if recipe.runtime.tensorboard and find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: `pip install tensorboard`")
    return Experiment(recipe, work_dir, data_root, chosen, resume)


def check_pairing(method: Method, recipe: Recipe) -> None:
    """Compare what `method` needs with what the recipe gives.

    Nothing is computed: networks are built on the `meta` device.

    Raises:
        UserError: The pairing is impossible; the message names the keys, their values and what to change.
    """
    name, needs = recipe.method.name, method.needs
    large, small = recipe.teacher.network, recipe.student
    if type(method).loss is Method.loss:
        raise UserError(f"{name} has no loss: define `loss(self, student, teacher, batch)` in {type(method).__name__}")
    if needs.same_backbone and (large.backbone, large.args) != (small.backbone, small.args):
        raise UserError(
            f"{name}'s student starts as large as its teacher, block by block: leave `student` as `{{like: teacher}}`, "
            "or give both the same backbone and args"
        )
    if needs.views and recipe.train.sampler.views == 1:
        raise UserError(
            f"{name} compares several augmentations of an image, and train.sampler.views is 1: set it to 2 or more"
        )
    with torch.device("meta"):
        teacher, student = (
            Embedder(**network.model_dump(exclude={"weights"}), identities=2) for network in (large, small)
        )
    if small.weights == "teacher" and _shapes(student) != _shapes(teacher):
        raise UserError("student.weights: teacher needs the teacher's own architecture, and the student has another")
    method.check(student, teacher if needs.teacher else None, RecipePlan.from_recipe(recipe))
    if not needs.teacher:
        return
    if needs.equal_embeddings and student.dim != teacher.dim:
        raise UserError(
            f"{name} compares the student's embedding with the teacher's, which must be of one size: the student's has "
            f"{student.dim} dimensions and the teacher's {teacher.dim}. Give student and teacher.network the neck "
            "`linear` and the same dim"
        )
    for key, network, taps in (("student", student, method.student_taps), ("teacher", teacher, method.teacher_taps)):
        _expect_maps(name, key, network, taps, recipe.image_size)


def _shapes(network: Embedder) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def _expect_maps(name: str, key: str, network: Embedder, taps: Sequence[str], image_size: tuple[int, int]) -> None:
    try:
        network.tap(taps)
    except UserError as error:
        raise UserError(f"{name} reads intermediate features of the {key}: {error}") from error
    backbone = network.architecture["backbone"]
    advice = f"{name} compares feature maps, (B, C, H, W), and the {key}'s backbone {backbone}"
    try:
        found = network.eval().features(torch.empty(2, 3, *image_size, dtype=torch.uint8, device="meta")).taps
    except UserError as error:
        raise UserError(f"{advice} has none: {error}. Choose a convolutional backbone") from error
    for tap, output in found.items():
        stage = re.fullmatch(r"stage(\d+)(:pre)?", tap)
        channels = stage_channels(network, [int(stage[1])])[0] if stage else None
        if output.dim() != 4 or channels not in (None, output.shape[1]):
            raise UserError(
                f"{advice} gives {tuple(output.shape[1:])} for each image at {tap}: choose a convolutional backbone"
            )
