"""Teachers that are not trained: published weights of a backbone, or those of a file."""

import json

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.finished import FinishedRun
from benchmark.experiment.inputs import weight_files
from benchmark.experiment.networks import untrained
from benchmark.experiment.preflight import preflight
from benchmark.model.serialize import load_network
from benchmark.recipe import compose
from benchmark.registry import TEACHERS
from benchmark.results.consistency import violations
from benchmark.results.rebuild import rebuilt_violations
from benchmark.results.record import Record

CPU = torch.device("cpu")
VIT = ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2})
FROZEN = ("teacher.frozen=true", "teacher.network.neck=none", "teacher.network.stem=imagenet")


@pytest.fixture
def vit(tiny, tmp_path):
    """`vit("rkd", ...)` is a recipe with a frozen ViT from a file as teacher, for a run of seconds."""
    torch.manual_seed(0)
    torch.save(timm.create_model(VIT[0], num_classes=0, **VIT[1]).state_dict(), tmp_path / "vit.pth")
    backbone, args = f"teacher.network.backbone={VIT[0]}", f"teacher.network.args={json.dumps(VIT[1])}"
    weights = f"teacher.network.weights={tmp_path / 'vit.pth'}"
    return lambda method, *settings: tiny(method, backbone, args, weights, *FROZEN, *settings)


@pytest.mark.slow
def test_run(vit, run, capsys):
    experiment, record = run(vit("rkd", "train.schedule.epochs=1"))
    assert "the teacher is not trained, 1 epoch for the student" in capsys.readouterr().err
    teacher = Record.read(experiment.teacher_folder.record)
    assert record.teacher.record == teacher.id
    assert (record.teacher.network, teacher.network.embedding, teacher.timing.train_seconds) == (VIT[0], 24, 0)
    assert teacher.recipe["teacher"]["frozen"]
    assert load_network(experiment.teacher_folder.student).architecture["backbone"] == VIT[0]
    for each in (record, teacher):
        assert [*violations(each), *rebuilt_violations(each)] == []

    again, _ = run(vit("rkd", "train.schedule.epochs=1", "seed=1", "teacher.train.schedule.epochs=50"))
    assert again.teacher_folder == experiment.teacher_folder, "no setting of a training belongs to it"
    assert Record.read(again.teacher_folder.record).created == teacher.created


def test_files_belong_to_the_inputs(vit, shades, tiny, tmp_path):
    recipe = vit("rkd")
    before = weight_files(recipe)
    assert before.keys() == {"teacher.network.weights"}
    (tmp_path / "vit.pth").write_bytes(b"other")
    assert weight_files(recipe) != before
    assert weight_files(vit("rkd", "teacher.frozen=false")) == {}

    args = {"path": str(tmp_path / "vit.pth"), "pool": "mean", "long": 5000 * "a", "identities": 3}
    recipe = tiny("rkd", *shades, f"teacher.network.args={json.dumps(args)}")
    assert weight_files(recipe).keys() == {"teacher.network.args.path"}


@pytest.mark.slow
def test_classifier_of_a_file(tiny, run, tmp_path):
    network = untrained(tiny("kd").teacher.network, identities=40)
    torch.save(network.state_dict(), tmp_path / "complete.pth")
    settings = ["teacher.frozen=true", f"teacher.network.weights={tmp_path / 'complete.pth'}"]
    _, record = run(tiny("kd", "train.schedule.epochs=1", *settings))
    assert record.teacher.record is not None


class Shades:
    """A teacher without weights, which has logits for some identities."""

    dim, cost = 6, (10, 1000)

    def __init__(self, identities: int = 40) -> None:
        self.identities = identities

    def embed(self, images: Tensor) -> Tensor:
        if not self.identities:
            raise RuntimeError("no weights")
        return images.float().flatten(2)[:, :, :2].flatten(1)

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, :1].expand(-1, self.identities)


@pytest.fixture
def shades():
    TEACHERS.register_module("shades")(Shades)
    yield ("teacher.frozen=true", "teacher.network.neck=none", "teacher.network.backbone=plugin:shades")
    del TEACHERS.classes["shades"]


@pytest.mark.slow
def test_attention_maps_of_tokens(vit, run):
    experiment, record = run(vit("at", "method.stages=[1, 2]", "train.schedule.epochs=1", "runtime.compile=eager"))
    assert [*violations(record), *rebuilt_violations(record)] == []
    assert experiment.folder.record.exists()


class Tokens(nn.Module):
    """A teacher whose only stage returns a sequence of tokens, without a grid."""

    dim, stages = 6, (("tokens", 6),)

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(3 * 8 * 8, 6)

    def embed(self, images: Tensor) -> Tensor:
        return self.tokens(functional.unfold(images.float(), 8, stride=8).mT).mean(1)


def test_sequences_of_a_plugin_are_read_by_sp_only(tiny, monkeypatch):
    monkeypatch.setitem(TEACHERS.classes, "tokens", Tokens)
    settings = (*FROZEN, "teacher.network.backbone=plugin:tokens", "method.stages=[1]")
    preflight(tiny("sp", *settings))
    preflight(tiny("sp+rkd", *settings[:-1], "method.sp.stages=[1]"))
    reason = r"the teacher's backbone plugin:tokens outputs \(16, 6\) per image at stage1: choose stages of another"
    with pytest.raises(UserError, match=f"at compares feature maps, .* {reason}"):
        preflight(tiny("at", *settings))
    with pytest.raises(UserError, match=reason):
        preflight(tiny("at+sp", *settings[:-1], "method.sp.stages=[1]", "method.at.stages=[1]"))


@pytest.mark.slow
def test_plugin(shades, tiny, run):
    experiment, record = run(tiny("kd", "train.schedule.epochs=1", *shades))
    assert (record.teacher.record, record.teacher.network, record.teacher.cost.macs) == (None, "plugin:shades", 1000)
    assert [*violations(record), *rebuilt_violations(record)] == []
    finished = FinishedRun(experiment.folder.path, experiment.dataset.root)
    assert finished.teacher(experiment.test)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).shape == (1, 6)
    with pytest.raises(UserError, match="a teacher of a plugin has no record"):
        experiment.run_teacher()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("rkd", ["teacher.frozen=false"], r"plugin:shades cannot be trained: add --set teacher\.frozen=true"),
        ("rkd", ["teacher.network.weights=w.pth"], "plugin:shades loads its weights itself"),
        ("rkd", ["student.backbone=plugin:shades"], "only teachers can be plugins"),
        (
            "rkd",
            ["teacher.network.args={identities: 0}"],
            r"plugin:shades cannot embed a \d+x\d+ image \(RuntimeError: no weights\): correct the class",
        ),
        ("at", [], "plugin:shades has no stage or module 'stage1', and states no stages"),
        ("csd", [], r"teacher's 6\. Add --set student\.neck=linear --set student\.dim=6"),
    ],
)
def test_plugin_is_refused(shades, tiny, method, settings, message):
    with pytest.raises(UserError, match=message):
        preflight(tiny(method, *shades, *settings))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("rkd", ["teacher.network.weights=random"], r"^teacher\.network\.weights: random: .*imagenet .* or to a file"),
        (
            "rkd",
            ["teacher.network.weights=imagenet", "teacher.network.neck=bn"],
            r"add --set teacher\.network\.neck=no",
        ),
        ("kd", ["teacher.network.weights=imagenet"], "kd needs the teacher's classifier .*weights=imagenet has none"),
        ("kd", [], r"^teacher\.network\.weights: .*vit\.pth has no classifier, which the method needs"),
        ("csd", [], r"dimensions and the teacher's 24\. Add --set student\.neck=linear --set student\.dim=24"),
        ("rkd", ["teacher.network.neck=linear"], "contain a backbone only.*set `neck: none`"),
        (
            "rkd",
            ["teacher.checkpoint=w.pth"],
            "^teacher in .*frozen uses network.weights, and checkpoint other",
        ),
    ],
)
def test_refused(vit, method, settings, message):
    with pytest.raises(UserError, match=message):
        preflight(vit(method, *settings))


def test_missing_published_weights(tiny, data_root, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("benchmark.model.pretrained._in_hub_cache", lambda repository: False)
    recipe = tiny("rkd", *FROZEN, "teacher.network.backbone=resnet18", "teacher.network.weights=imagenet")
    experiment = Experiment(recipe, work_dir=tmp_path, data_root=data_root, device=CPU)
    with pytest.raises(UserError, match=r"^teacher\.network\.weights: the pretrained weights of resnet18 .* not on"):
        experiment.run()


def test_replaces_the_teacher_of_the_dataset():
    recipe = compose("rkd", "glyphs2", settings=["teacher.frozen=true"])
    assert (recipe.teacher.checkpoint, recipe.teacher.is_trained) == (None, False)
    assert compose("rkd", "glyphs2").hash == compose("rkd", "glyphs2", settings=["teacher.frozen=false"]).hash
