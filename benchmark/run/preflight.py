"""Whether a method can work on a pair of networks: found out before anything is trained."""

import re
from collections.abc import Sequence

import torch

from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.model.embedder import Embedder, stage_channels
from benchmark.recipe import Recipe


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
    method.check_training(recipe.train.optimizer.type, recipe.train.sampler.batch_size)
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
    method.check(student, teacher, recipe.image_size)
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
