"""What is checked before the first image is read."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.experiment.preflight import check_pairing, meta_networks, preflight
from benchmark.method import Method, Needs
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.recipe import Recipe, compose
from benchmark.registry import METHODS
from benchmark.utils.launch import Launch


class Needy(Method):
    """A method with the given needs and taps."""

    def __init__(self, taps: tuple[str, ...] = (), **needs: Any) -> None:
        super().__init__()
        self.needs = Needs(**needs)
        self.student_taps = self.teacher_taps = taps

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {}


class WithoutLoss(Method):
    """A method whose author forgot the loss."""


def check(method: Method, recipe: Recipe) -> None:
    check_pairing(method, *meta_networks(recipe), recipe)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (Needy(equal_embeddings=True), ["student.dim=8"], "the student's has 8 dim.* teacher's 16"),
        (Needy(equal_embeddings=True), ["student.neck=bn"], "the student's has 64 dimensions and the teacher's 16"),
        (WithoutLoss(), [], "has no loss: define `loss.self, student, teacher, batch.` in WithoutLoss"),
        (Needy(same_backbone=True), ["student.backbone=resnet18"], "has to start with the teacher's backbone"),
        (Needy(same_backbone=True), ["student.args.stem_width=4"], "has to start with the teacher's backbone"),
        (Needy(views=True), [], "train.sampler.views is 1: set it to 2 or more"),
        (Needy(), ["student.weights=teacher", "student.dim=8"], "student.weights: 'teacher' requires the teacher's"),
        (Needy(("stage5",)), [], "student: resnet14t has no stage or module 'stage5'; its stages are stage1, stage2,"),
    ],
)
def test_impossible_pairing(tiny, method, settings, message):
    with pytest.raises(UserError, match=message):
        check(method, tiny("kd", *settings))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Needy(equal_embeddings=True, same_backbone=True), []),
        (Needy(equal_embeddings=True), ["student.backbone=resnet18"]),
        (Needy(views=True), ["train.sampler.views=2"]),
        (Needy(("stage1", "stage4", "layer1.0.bn2")), ["student.image_size=[16, 24]"]),
        (Needy(teacher=False, equal_embeddings=True), ["student.dim=8"]),
    ],
)
def test_possible_pairing(tiny, method, settings):
    check(method, tiny("kd", *settings))


def with_backbone(key: str, backbone: str) -> Recipe:
    settings = [f"{key}.backbone={backbone}", f"{key}.last_stride=2"]
    return compose("kd", "cub200", settings=[*settings, "image_size=[224, 224]"])


@pytest.mark.parametrize(
    ("backbone", "tap", "reason"),
    [
        ("vit_tiny_patch16_224", "blocks.1", r"outputs \(197, 192\) per image at blocks.1: choose stages of another"),
        ("pit_ti_224", "transformers.1", "has none: transformers.1 does not return one feature tensor"),
    ],
)
def test_module_that_returns_no_feature_map(backbone, tap, reason):
    with pytest.raises(UserError, match=rf"compares feature maps, .* the student's backbone {backbone} {reason}"):
        check(Needy((tap,)), with_backbone("student", backbone))


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "coat_lite_mini", "hrnet_w18_small"])
def test_backbones_whose_stages_timm_arranges_as_maps(backbone):
    check(Needy(("stage1", "stage4")), with_backbone("student", backbone))


class TestSequences:
    class Reader(Needy):
        """A method that reads tensors of any shape."""

        accepts_sequences = True

    def test_are_accepted(self):
        method = self.Reader(("blocks.1",))
        method.teacher_taps = ("layer1",)
        check(method, with_backbone("student", "vit_tiny_patch16_224"))

    def test_of_windows_are_no_images(self):
        recipe = with_backbone("student", "swin_tiny_patch4_window7_224")
        with pytest.raises(UserError, match=r"outputs \(128, 49, 288\) for 2 images: the images have to be the first"):
            check(self.Reader(("layers.0.blocks.0.attn.qkv",)), recipe)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("cdd", ["train.optimizer.type=adamw"], "cdd: `lasso: auto` is derived for train.optimizer.type: sgd"),
        ("deap", ["train.optimizer.type=adamw"], "deap: `lasso: auto` is derived for train.optimizer.type: sgd"),
        (
            "slimming",
            ["train.optimizer.type=adamw"],
            "slimming: `lasso: auto` is derived for train.optimizer.type: sgd",
        ),
        (
            "slimming+kd",
            ["train.optimizer.type=adamw"],
            "slimming: `lasso: auto` is derived for train.optimizer.type: sgd",
        ),
        ("kd", ["train.augment.pad=200"], "train.augment.pad: 200 pixels are too many for 32x32 images; set it to 128"),
        (
            "none",
            ["teacher.train.augment.pad=32", "teacher.train.augment.pad_mode=reflect"],
            "teacher.train.augment.pad: 32 .*set it to 31 or fewer with pad_mode: reflect",
        ),
        ("none", ["evaluate.embedding=pca:17"], "evaluate.embedding: pca:17: embeddings have only 16 values"),
        ("none", ["evaluate.embedding=pq:3x4"], "evaluate.embedding: pq:3x4: cannot divide embeddings of 16 values"),
        ("cdd", ["method.queue=10"], "queue .10. must hold at least a batch of 32 images"),
        ("cdd", ["method.neighbours=500"], "neighbours .500. must not exceed the batch size .32."),
    ],
)
def test_settings_that_a_method_refuses(tiny, method, settings, message):
    with pytest.raises(UserError, match=message):
        preflight(tiny(method, *settings))


def test_constructor_of_a_method_that_fails(tiny, monkeypatch):
    monkeypatch.setattr(METHODS.find("kd"), "__init__", lambda self, temperature, weight: 1 / 0)
    with pytest.raises(UserError, match=r"kd cannot be created with .*: ZeroDivisionError in line \d+ of .*preflight"):
        preflight(tiny("kd"))


@pytest.mark.parametrize(
    ("method", "teacher", "message"),
    [
        ("cdd", "vit_tiny_patch16_224", "vit_tiny_patch16_224 has no channels that could be pruned"),
        ("deap+kd", "vit_tiny_patch16_224", "vit_tiny_patch16_224 has no channels that could be pruned"),
        ("uniform", "resnext50_32x4d", "resnext50_32x4d has grouped convolutions at layer1.0"),
        ("slimming", "regnety_002", "regnety_002 has grouped convolutions at s1.b1"),
        ("ofd", "convnext_atto", "ofd takes its margins"),
        ("ofd", "xcit_nano_12_p8_224", "stage 1 of xcit_nano_12_p8_224 does not end with a batch norm of its 128"),
        ("ofd", "twins_svt_small", "stage 1 of twins_svt_small does not end with a batch norm of its 64"),
        ("ugd", "efficientnet_lite0", "in efficientnet_lite0 further layers follow the last stage"),
        ("ugd", "mvitv2_tiny", "in mvitv2_tiny further layers follow the last stage"),
        ("ugd", "mambaout_femto", r"the last stage of mambaout_femto outputs \(7, 7, 288\) per image, not a map"),
        ("ugd", "pit_ti_224", "pit_ti_224 has no stage 4: its stages are 1 to 3"),
    ],
)
def test_networks_that_a_method_refuses(method, teacher, message):
    settings = [f"teacher.network.backbone={teacher}", "teacher.network.last_stride=2", "image_size=[224, 224]"]
    recipe = compose(method, "cub200", settings=settings)
    with pytest.raises(UserError, match=message):
        check(METHODS.find(method)(**recipe.method.arguments), recipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        "efficientvit_m0",  # keeps biases of its attention in evaluation, which cannot be copied with gradients
        "eca_botnext26ts_256",  # is built for one image size
    ],
)
def test_pruning_of_networks_with_attention(backbone):
    settings = [f"teacher.network.backbone={backbone}", "teacher.network.weights=random", "image_size=[64, 64]"]
    ceilings = preflight(compose("cdd", "glyphs", settings=[*settings, "method.target_macs=null"])).ceilings
    assert ceilings is not None


@pytest.fixture(scope="module")
def networks_of():
    """`meta_networks`, which builds equal networks once."""
    built: dict[str, tuple[Embedder, Embedder]] = {}

    def networks(recipe: Recipe) -> tuple[Embedder, Embedder]:
        key = f"{recipe.teacher.network} {recipe.student}"
        return built[key] if key in built else built.setdefault(key, meta_networks(recipe))

    return networks


@pytest.mark.parametrize("dataset", ["glyphs", pytest.param("market1501", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_accepts_the_default_networks(method, dataset, networks_of):
    recipe = compose(method, dataset)
    check_pairing(METHODS.find(method)(**recipe.method.arguments), *networks_of(recipe), recipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["student.backbone=resnet62"], "student: unknown backbone 'resnet62'"),
        (["student.args={chanels: [1]}"], "student: .*'chanels'.*'channels'"),
        (
            ["student.args={checkpoint_path: w.pth}"],
            "student: args of .*'checkpoint_path' is not an argument of the arch",
        ),
        (
            ["teacher.network.args={pretrained_cfg: {file: w.pth}}"],
            "teacher.network: args of .*'pretrained_cfg' is not",
        ),
        (["student.backbone=hf-hub:resnet18"], "student: backbone hf-hub:resnet18: must be hf-hub:OWNER/NAME"),
        (
            ["student.backbone=resnet18.a9_in1k"],
            "student: backbone .* has no weights 'a9_in1k'; did you mean 'a.*_in1k'",
        ),
        (["teacher.network.weights=techer"], "teacher.network.weights: 'techer' is neither a file .* 'teacher'"),
        (["teacher.network.weights=teacher"], "teacher.network.weights: a teacher cannot start from itself"),
        (["teacher.checkpoint=none.pt"], "teacher.checkpoint: none.pt does not exist"),
        (
            ["runtime.compile=eager", "runtime.sync_batchnorm=true"],
            "runtime.sync_batchnorm: processes cannot share statistics within the code that runtime.compile=eager",
        ),
        (["runtime.compile=inducktor"], "runtime.compile: unknown backend 'inducktor'; did you mean 'inductor'"),
    ],
)
def test_impossible_recipe(settings, message):
    with pytest.raises(UserError, match=message):
        preflight(compose("none", "glyphs", settings=settings))


def test_image_size_that_a_network_does_not_accept():
    settings = [
        "image_size=[1, 1]",
        "teacher.network.image_size=[64, 64]",
        "student.backbone=test_vit",
        "student.last_stride=2",
    ]
    with pytest.raises(UserError, match="student: test_vit does not accept 1x1 inputs"):
        preflight(compose("none", "market1501", settings=settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["student.backbone=vit_tiny_patch16_224", "student.args.dynamic_img_size=false"],
            "student: vit_tiny_patch16_224 does not accept 32x32 inputs; its own size is 224x224: set "
            "image_size=[224,224], or student.image_size=[224,224] to let it resize its images, or "
            "student.args.img_size=[32,32] to build it for this size",
        ),
        (
            ["student.backbone=convnext_atto", "student.last_stride=1", "student.pool=gem"],
            "convnext_atto can be used with --set student.stem=imagenet --set student.last_stride=2",
        ),
        (
            ["student.backbone=seresnet33ts", "student.stem=imagenet", "student.last_stride=1"],
            "use last_stride: 2. seresnet33ts can be used with --set student.last_stride=2",
        ),
        (
            ["student.backbone=resnet14t", "student.args={channels: [8]}"],
            "student: resnet14t does not work with args.channels = [8], whatever the image size: correct or remove",
        ),
        (
            ["student.backbone=resnet14t", "student.args={channels: [0, 0, 0, 0]}"],
            "student: resnet14t does not work with args.channels = [0, 0, 0, 0], whatever the image size",
        ),
        (
            ["student.backbone=resnet14t", "student.args={stem_width: 8, channels: [-8, 8, 8, 8]}"],
            "student: resnet14t cannot be built with args.channels = [-8, 8, 8, 8]: correct its type or values",
        ),
        (
            ["student.backbone=resnet14t", "student.args={act_layer: none, stem_width: wide}"],
            "student: resnet14t cannot be built with args {'act_layer': 'none', 'stem_width': 'wide'}: correct their",
        ),
    ],
)
def test_how_another_family_can_be_used(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        preflight(compose("none", "glyphs", settings=settings))


def test_cost_of_the_networks(tiny):
    checked = preflight(tiny("none", "student.dim=8"))
    assert 0 < checked.student.parameters < checked.teacher.parameters
    assert 0 < checked.student.macs < checked.teacher.macs


def test_the_constructor_of_a_method_draws_by_the_seed(tiny, monkeypatch):
    class Draws(Needy):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = nn.Linear(2, 2)

    monkeypatch.setitem(METHODS.classes, "kd", Draws)
    first, again, other = (preflight(tiny("kd", f"seed={seed}")).method.adapter.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "kd",
            ["train.augment.transforms=[{type: Blur}]"],
            "^train.augment.transforms: .* has no 'Blur'",
        ),
        (
            "kd",
            ["teacher.train.augment.transforms=[{type: Resize, size: [8, 8]}]"],
            "^teacher.train.augment: the transforms turn an image of 32x32 pixels into one of 8x8 and type uint8",
        ),
        ("kd", ["train.augment.load_size=[40, 40]", "train.augment.pad=0"], "^train.augment: the .* 40x40 pixels"),
        ("kd", ["train.task.losses=[{type: Proxy}]"], "^train.task.losses: pytorch_metric_learning.losses has no"),
        ("kd", ["train.task.losses=[{type: CircleLoss, gamma: a}]"], "^train.task.losses: "),
        ("kd", ["train.task.margin={type: arcface, margin: 0.5}", "student.head=linear"], "set student.head=cosine"),
        ("cdd", ["train.schedule.frozen_epochs=1"], "^train.schedule.frozen_epochs: cdd compresses the backbone"),
        ("cdd", ["train.optimizer.lr_times.backbone=0"], "^train.optimizer.lr_times.backbone: cdd compresses"),
        ("none", ["train.task.identity=0", "train.task.triplet.weight=0"], "^train.task: there is no loss"),
    ],
)
def test_impossible_training(tiny, method, settings, message):
    with pytest.raises(UserError, match=message):
        preflight(tiny(method, *settings))


def test_training_on_crops(tiny):
    crop = "train.augment.transforms=[{type: RandomResizedCrop, size: [32, 32]}]"
    preflight(tiny("kd", "train.augment.load_size=[40, 40]", "train.augment.pad=0", crop))


@pytest.mark.parametrize("processes", [3, 32])
def test_batch_that_processes_cannot_share(tiny, monkeypatch, processes):
    monkeypatch.setattr("benchmark.experiment.preflight.launch", lambda: Launch(processes))
    with pytest.raises(UserError, match=rf"a batch of 32 images cannot be shared equally by {processes} processes"):
        preflight(tiny("none"))
