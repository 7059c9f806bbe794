"""Pairings of method, teacher and student that cannot work are found before anything is trained."""

from typing import Any

import pytest
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.experiment.preflight import check_pairing
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.recipe import compose
from benchmark.registry import METHODS


class Asking(Method):
    """A method that needs what a test says."""

    def __init__(self, taps: tuple[str, ...] = (), **needs: Any) -> None:
        super().__init__()
        self.needs = Needs(**needs)
        self.student_taps = self.teacher_taps = taps

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {}


class Silent(Method):
    """A method whose author forgot the loss."""


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            Asking(equal_embeddings=True),
            ["student.dim=8"],
            "student's has 8 dim.* teacher's 16",
        ),
        (Silent(), [], "has no loss: define `loss.self, student, teacher, batch.` in Silent"),
        (Asking(equal_embeddings=True), ["student.neck=bn"], "the student's has 64 dimensions and the teacher's 16"),
        (Asking(same_backbone=True), ["student.backbone=resnet18"], "starts as large as its teacher, block by block"),
        (Asking(same_backbone=True), ["student.args.stem_width=4"], "starts as large as its teacher, block by block"),
        (Asking(views=True), [], "train.sampler.views is 1: set it to 2 or more"),
        (
            METHODS.find("cdd")(),
            ["train.optimizer.type=adamw"],
            "cdd: `lasso: auto` is derived for train.optimizer.type: sgd",
        ),
        (
            METHODS.find("deap")(),
            ["train.optimizer.type=adamw"],
            "deap: `lasso: auto` is derived for train.optimizer.type: sgd",
        ),
        (
            METHODS.find("slimming")(),
            ["train.optimizer.type=adamw"],
            "slimming: `lasso: auto` is derived for train.optimizer.type: sgd",
        ),
        (
            METHODS.find("slimming+kd")(),
            ["train.optimizer.type=adamw"],
            "slimming: `lasso: auto` is derived for train.optimizer.type: sgd",
        ),
        (METHODS.find("cdd")(queue=10), [], "queue .10. must hold at least a batch of 32 images"),
        (METHODS.find("cdd")(neighbours=500), [], "neighbours .500. must not exceed the batch size .32."),
        (Asking(), ["student.weights=teacher", "student.dim=8"], "student.weights: teacher needs the teacher's own"),
        (Asking(("stage5",)), [], "features of the student: resnet14t has no stage or module 'stage5'; did you mean"),
    ],
)
def test_the_impossible_is_named(tiny, method, settings, message):
    with pytest.raises(UserError, match=message):
        check_pairing(method, tiny("kd", *settings))


@pytest.mark.parametrize("network", ["student", "teacher.network"])
@pytest.mark.parametrize(
    ("backbone", "what"),
    [
        ("vit_tiny_patch16_224", r"gives \(197, 192\) for each image at stage2"),
        ("swin_tiny_patch4_window7_224", r"gives \(28, 28, 192\) for each image at stage2"),  # channels come last
        ("crossvit_9_240", "choose another|stage2 does not return one feature tensor"),
        ("coat_lite_mini", "choose another|stage2 does not return one feature tensor"),
    ],
)
def test_what_gives_no_maps_is_named(network, backbone, what):
    side = 240 if "240" in backbone else 224
    settings = [f"{network}.backbone={backbone}", f"{network}.last_stride=2", f"image_size=[{side}, {side}]"]
    recipe = compose("kd", "cub200", settings=settings)
    who = network.partition(".")[0]
    with pytest.raises(UserError, match=rf"the {who}'s backbone {backbone} {what}.*hoose a convolutional backbone"):
        check_pairing(Asking(("stage2",)), recipe)


@pytest.mark.parametrize(
    ("method", "teacher", "message"),
    [
        ("cdd", "vit_tiny_patch16_224", "no residual blocks of timm's ResNet family"),
        ("deap+kd", "vit_tiny_patch16_224", "residual blocks of timm's ResNet family"),
        ("uniform", "resnext50_32x4d", "resnext50_32x4d has grouped convolutions at layer1.0"),
        ("slimming", "mobilenetv3_small_050", "no residual blocks of timm's ResNet family"),
        ("ofd", "convnext_atto", "ofd takes its margins"),
        ("ugd", "efficientnet_lite0", "in efficientnet_lite0 further layers follow the last stage"),
    ],
)
def test_what_a_method_cannot_work_on_is_known_without_weights(method, teacher, message):
    settings = [f"teacher.network.backbone={teacher}", "teacher.network.last_stride=2", "image_size=[224, 224]"]
    recipe = compose(method, "cub200", settings=settings)
    with pytest.raises(UserError, match=message):
        check_pairing(METHODS.find(method)(**recipe.method.arguments), recipe)


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_works_on_the_networks_of_the_recipes(method):
    recipe = compose(method, "market1501")
    check_pairing(METHODS.find(method)(**recipe.method.arguments), recipe)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Asking(equal_embeddings=True, same_backbone=True), []),
        (Asking(equal_embeddings=True), ["student.backbone=resnet18", "student.args={}"]),
        (Asking(views=True), ["train.sampler.views=2"]),
        (Asking(("stage1", "stage4", "layer1.0.bn2")), ["student.image_size=[16, 24]"]),
        (Asking(teacher=False, equal_embeddings=True), ["student.dim=8"]),
    ],
)
def test_the_possible_passes(tiny, method, settings):
    check_pairing(method, tiny("kd", *settings))


def test_needs_add_up_and_are_told():
    assert Needs(teacher=False) | Needs(classifier=True) == Needs(classifier=True)
    assert Needs(teacher=False).describe() == "Needs no teacher."
    assert Needs().describe() == "Needs a teacher."
    assert Needs(classifier=True).describe() == "Needs a teacher and the teacher's classifier."
    told = Needs(classifier=True, sample_index=True).describe()
    assert told == "Needs a teacher, the teacher's classifier and the index of every sample."
