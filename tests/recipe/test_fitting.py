"""Options of networks that follow from the backbone and the size of the images."""

import json

import pytest

from benchmark.experiment.preflight import preflight
from benchmark.recipe import compose, replay


def student(*settings: str, dataset: str = "swatches", config: dict | None = None) -> tuple[str, object, dict]:
    network = compose("none", dataset, config, settings).student
    return network.stem, network.last_stride, network.args


@pytest.mark.parametrize(
    ("settings", "stride"),
    [
        ([], 1),
        (["student.backbone=resnet34"], 1),
        (["student.backbone=mobilenetv3_small_050"], 2),
        (["student.backbone=mobilenetv3_small_050", "student.last_stride=1"], 1),  # refused before the run
        (["student.last_stride=2", "student.backbone=resnet34"], 2),
        (["student.last_stride=auto"], 1),
        (["student.backbone=seresnet33ts", "student.last_stride=auto"], 2),
        (["student.backbone=resnet9000", "student.last_stride=auto"], 1),  # refused before the run
        (["teacher.network.backbone=mobilenetv3_small_050", "student={like: teacher}"], 2),
        (["teacher.network.backbone=test_efficientnet", "student={like: teacher, backbone: resnet18}"], 1),
    ],
)
def test_last_stride(settings, stride):
    assert student(*settings)[1] == stride


def test_layers():
    config = {"student": {"backbone": "resnet34", "last_stride": 1}}
    assert student(config=config)[1] == 1
    assert student("student.backbone=mobilenetv3_small_050", config=config)[1] == 2
    saved = compose("none", "swatches").model_dump(mode="json")
    assert student("student.backbone=mobilenetv3_small_050", dataset=None, config=saved)[1] == 2


def test_a_stride_that_the_recipe_has_chosen_is_kept():
    assert student("student.backbone=resnet34", dataset="glyphs2")[:2] == ("no_pool", 2)


@pytest.mark.parametrize(
    ("settings", "args"),
    [
        (["image_size=[64, 64]"], {"img_size": [64, 64]}),
        (["image_size=[64, 64]", "student.image_size=[48, 32]"], {"img_size": [48, 32]}),
        (["image_size=[64, 64]", "student.args.dynamic_img_size=true"], {"dynamic_img_size": True}),
        (["image_size=[224, 224]"], {}),  # its own size
        (["image_size=[64, 64]", "student.args.img_size=96"], {"img_size": 96}),
    ],
)
def test_image_size_of_a_vit(settings, args):
    assert student("student.backbone=vit_tiny_patch16_224", *settings)[2] == args


@pytest.mark.parametrize("dataset", ["glyphs2", pytest.param("market1501", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "vit_tiny_patch16_224", "test_efficientnet"])
def test_backbones_that_just_work(dataset, backbone):
    recipe = compose("none", dataset, settings=[f"student.backbone={backbone}"])
    assert preflight(recipe).student.macs > 0


@pytest.mark.parametrize("dataset", ["glyphs2", "market1501"])
def test_naming_the_same_backbone_keeps_the_hash(dataset):
    recipe = compose("none", dataset)
    named = [f"student.{key}={json.dumps(getattr(recipe.student, key))}" for key in ("backbone", "args")]
    assert compose("none", dataset, settings=named).hash == recipe.hash


def test_replay_resolves_auto():
    content = compose("none", "swatches").model_dump(mode="json")
    content["student"] |= {"backbone": "mobilenetv3_small_050", "last_stride": "auto"}
    assert replay(content, "record").student.last_stride == 2
