"""Loading of weights from files of any origin into a network."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import save_student
from benchmark.model.weights import fit_weights, load_weights

SMALL = {"channels": [8, 16, 32, 64]}
WIDTH = 256
"""Width of the pooled feature."""
State = dict[str, Tensor]


def network(seed: int, identities: int = 5, **options) -> Embedder:
    torch.manual_seed(seed)
    return Embedder("resnet26", SMALL, dim=12, identities=identities, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def batch_norm(width: int, seed: int) -> State:
    torch.manual_seed(seed)
    return {name: value.float().uniform_() for name, value in nn.BatchNorm1d(width).state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    """`saved(content)` writes a file of weights and returns its path."""

    def save(content: object, **options) -> Path:
        torch.save(content, tmp_path / "w.pth", **options)
        return tmp_path / "w.pth"

    return save


WHOLE = {
    "plain": lambda state: state,
    "last.pt of this suite": lambda state: {
        "epoch": 3,
        "structure": {},
        "student": state,
        "method": prefixed("teacher.", state),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
    },
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "any key": lambda state: {"checkpoint": {"weights_of_net": state}},
    "DataParallel": lambda state: {"net": prefixed("module.", state)},
    "torch.compile in DataParallel": lambda state: prefixed("module._orig_mod.", state),
    "torch.compile of the backbone": lambda state: {
        name.replace("backbone.", "backbone._orig_mod."): value for name, value in state.items()
    },
    "Lightning": lambda state: {
        "epoch": 1,
        "state_dict": {**prefixed("model.", state), "criterion.weight": torch.zeros(5)},
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    },
}


@pytest.mark.parametrize("layout", WHOLE)
def test_whole_network(layout, saved):
    other = network(2)
    load_weights(other, saved(WHOLE[layout](network(1).state_dict())))
    assert same(other, network(1))


def training_args() -> argparse.Namespace:
    return argparse.Namespace(model="resnet26", lr=0.1)


BACKBONE = {
    "torchvision": lambda state: {**state, "fc.weight": torch.zeros(1000, WIDTH), "fc.bias": torch.zeros(1000)},
    "torchvision before 2018": lambda state: {k: v for k, v in state.items() if "num_batches_tracked" not in k},
    "torchreid": lambda state: {
        "state_dict": prefixed("module.", {**state, "classifier.weight": torch.zeros(751, WIDTH)}),
        "epoch": 60,
        "rank1": np.float64(0.94),
        "optimizer": {"state": {}},
    },
    "timm": lambda state: {"epoch": 3, "arch": "resnet26", "state_dict": state, "args": training_args()},
    "fast-reid": lambda state: {
        "model": {
            **prefixed("backbone.", state),
            **prefixed("heads.bottleneck.0.", batch_norm(WIDTH, 3)),
            "heads.weight": torch.zeros(751, WIDTH),
            "pixel_mean": torch.zeros(1, 3, 1, 1),
        },
        "iteration": 100,
    },
    "mmpretrain": lambda state: {
        "meta": {"CLASSES": ("cat", "dog"), "epoch": 1},
        "state_dict": {
            **prefixed("backbone.", state),
            "neck.fc.weight": torch.zeros(3),
            "head.fc.weight": torch.zeros(3),
        },
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer([1.0], [1])}},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(8, 3, 7, 7)}}},
    },
    "Lightning": lambda state: {"state_dict": prefixed("model.encoder.base.", state)},
    "thop": lambda state: {**state, "layer1.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
    "half precision": lambda state: {k: v.half().float() for k, v in state.items()},
}


@pytest.mark.parametrize("layout", BACKBONE)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_backbone_only_keeps_neck_and_head(layout, zipped, saved):
    backbone = network(1).backbone
    state = BACKBONE[layout](backbone.state_dict())
    other = network(2)
    report = load_weights(other, saved(state, _use_new_zipfile_serialization=zipped))
    assert other.backbone.layer4[1].conv3.weight.half().equal(backbone.layer4[1].conv3.weight.half())
    assert same(other.neck, network(2).neck) and same(other.head, network(2).head)
    assert "backbone only, the rest keeps its initial values" in report


def test_safetensors(tmp_path):
    save_file(network(1).state_dict(), tmp_path / "w.safetensors")
    other = network(2)
    load_weights(other, tmp_path / "w.safetensors")
    assert same(other, network(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype, saved):
    state = network(1).state_dict()
    report = load_weights(
        other := network(2), saved({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()})
    )
    assert f"converted from {str(dtype).removeprefix('torch.')}" in report
    assert other.neck.linear.weight.dtype == torch.float32
    assert torch.allclose(other.neck.linear.weight, state["neck.linear.weight"], rtol=1e-2)


class TestSeveralStateDicts:
    """Of state dicts that fit equally well, a moving average is taken, then a teacher, then the first."""

    @pytest.mark.parametrize(
        ("first", "second", "taken"),
        [
            ("model", "model_ema", 1),
            ("state_dict_ema", "state_dict", 0),
            ("student", "teacher", 1),
            ("module.encoder_q", "module.encoder_k", 0),
        ],
    )
    @pytest.mark.parametrize("flat", [False, True], ids=["wrapped", "prefixed"])
    def test_choice(self, first, second, taken, flat, saved):
        states = [network(seed).state_dict() for seed in (1, 2)]
        names = (first, second)
        if flat:
            content = {
                k: v for name, state in zip(names, states, strict=True) for k, v in prefixed(f"{name}.", state).items()
            }
        else:
            content = dict(zip(names, states, strict=True))
        other = network(3)
        report = load_weights(other, saved(content))
        assert same(other, network(1 + taken))
        assert f"{names[1 - taken].removeprefix('module.')}" in report and "would fit as well" in report

    def test_one_that_fits_wins_over_an_average_that_does_not(self, saved):
        ema = prefixed("ema.", timm.create_model("test_resnet").state_dict())
        other = network(3)
        load_weights(other, saved({"model_ema": ema, "model": network(1).state_dict()}))
        assert same(other, network(1))


class TestTrainedNetwork:
    """With `trained`, the neck is required. A classifier for the same identities is optional."""

    def test_with_classifier(self, saved):
        other = network(2)
        load_weights(other, saved(network(1).state_dict()), trained=True)
        assert same(other, network(1))

    @pytest.mark.parametrize("identities", [0, 7])
    def test_without_classifier_or_for_other_identities(self, identities, saved):
        other = network(2)
        report = load_weights(other, saved(network(1, identities).state_dict()), trained=True)
        assert other.head is None and "no classifier for these identities" in report
        assert torch.equal(other.neck.linear.weight, network(1, identities).neck.linear.weight)
        assert other.eval().features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).logits.shape == (2, 0)

    def test_a_classifier_with_a_bias_is_not_taken(self, saved):
        load_weights(other := network(2), saved(network(1).state_dict() | {"head.bias": torch.ones(5)}), trained=True)
        assert other.head is None

    def test_rejects_a_backbone_only(self, saved):
        with pytest.raises(UserError, match=r"contain a backbone only.*neck: none"):
            load_weights(network(2), saved(network(1).backbone.state_dict()), trained=True)

    @pytest.mark.parametrize("prefix", ["heads.bottleneck.0.", "bottleneck.", "bnneck."])
    def test_neck_of_another_library(self, prefix, saved):
        trained = network(1, neck="bn", pool="gem")
        neck = batch_norm(WIDTH, 5)
        backbone = {k: v for k, v in trained.backbone.state_dict().items() if "global_pool" not in k}
        content = {**prefixed("base.", backbone), **prefixed(prefix, neck), "heads.pool_layer.p": torch.tensor([2.5])}
        other = network(2, neck="bn", pool="gem")
        report = load_weights(other, saved({"model": content}), trained=True)
        assert torch.equal(other.neck.running_mean, neck["running_mean"])
        assert other.backbone.global_pool.exponent.item() == 2.5
        assert f"neck from {prefix}weight" in report

    def test_two_batch_norms_of_the_width_of_the_neck_are_ambiguous(self, saved):
        content = {
            **network(1).backbone.state_dict(),
            **prefixed("a.", batch_norm(WIDTH, 1)),
            **prefixed("b.", batch_norm(WIDTH, 2)),
        }
        with pytest.raises(UserError, match="backbone only"):
            load_weights(network(2, neck="bn"), saved(content), trained=True)

    def test_no_neck(self, saved):
        other = network(2, neck="none")
        load_weights(other, saved(network(1).backbone.state_dict()), trained=True)
        assert same(other.backbone, network(1).backbone) and other.dim == WIDTH


def error_of(content: object, saved, **options) -> str:
    """Return the message of the error, and check that no weights were loaded."""
    other = network(2)
    with pytest.raises(UserError) as raised:
        load_weights(other, saved(content), **options)
    assert same(other, network(2))
    assert len(str(raised.value)) < 1500
    return str(raised.value)


class TestMisfit:
    def test_lists_the_keys(self, saved):
        weights = network(1).state_dict()
        weights["neck.extra"] = weights.pop("neck.linear.weight")
        weights["neck.norm.weight"] = torch.zeros(3)
        message = error_of(weights, saved)
        assert "1 missing: neck.linear.weight" in message
        assert "1 not in the network: neck.extra" in message
        assert "1 of another shape: neck.norm.weight (3,) instead of (256,)" in message

    def test_incomplete_backbone(self, saved):
        weights = network(1).backbone.state_dict()
        del weights["conv1.weight"]
        assert "1 missing: backbone.conv1.weight" in error_of(weights, saved)

    def test_tensors_inside_the_backbone_that_it_does_not_have(self, saved):
        weights = network(1).backbone.state_dict() | {"layer1.0.se.fc1.weight": torch.zeros(2, 3)}
        assert "1 not in the network: layer1.0.se.fc1.weight" in error_of(weights, saved)

    @pytest.mark.parametrize(
        ("name", "prefix"),
        [("resnet50", "module.model."), pytest.param("vit_tiny_patch16_224", "", marks=pytest.mark.slow)],
    )
    def test_names_another_architecture(self, name, prefix, saved):
        with torch.device("meta"):
            shapes = timm.create_model(name).state_dict()
        weights = {f"{prefix}{key}": torch.zeros(()).expand(value.shape) for key, value in shapes.items()}
        assert f"The file fits {name}: set the backbone to {name}" in error_of({"state_dict": weights}, saved)

    def test_names_a_deeper_architecture(self, saved):
        with torch.device("meta"):
            shapes = timm.create_model("resnet34").state_dict()
        path = saved({key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()})
        with pytest.raises(UserError, match=r"do not fit resnet18: 100 of its 100 tensors .*The file fits resnet34"):
            load_weights(Embedder("resnet18"), path)

    def test_names_the_args_if_only_widths_differ(self, saved):
        weights = timm.create_model("resnet26", channels=[4, 8, 16, 32], num_classes=0).state_dict()
        assert "set the `args` of the backbone" in error_of(weights, saved)

    def test_names_the_image_size(self, saved):
        small, large = (Embedder("test_vit", {"img_size": size, "patch_size": 8}, dim=4) for size in (32, 64))
        with pytest.raises(UserError, match="images of another size: set `image_size`, and `img_size`"):
            load_weights(small, saved(large.state_dict()))

    def test_deployed_student(self, tmp_path):
        from benchmark.model.fold import fold_batchnorm

        folded = fold_batchnorm(network(1), torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        save_student(folded, tmp_path / "student.pt", (32, 32))
        with pytest.raises(UserError, match=r"deployed student.*checkpoints/last\.pt"):
            load_weights(network(2), tmp_path / "student.pt")

    @pytest.mark.parametrize(
        "content",
        [
            {},
            [torch.zeros(3)],
            {"epoch": 3},
            {"student": None},
            {0: torch.zeros(3), 1: torch.zeros(2)},
            {"model": {"conv1.weight": np.zeros(3)}},
            torch.zeros(3),
            None,
        ],
        ids=str,
    )
    def test_no_tensors_by_name(self, content, saved):
        assert "do not hold a dictionary of tensors by name" in error_of(content, saved)

    def test_tensors_of_something_else(self, saved):
        assert "0 of its" in error_of({"a.b": torch.zeros(3), "": torch.zeros(1), "...": torch.zeros(2)}, saved)

    def test_a_dictionary_that_contains_itself(self, saved):
        content: dict = {"state_dict": {}}
        content["state_dict"]["model"] = content
        assert "do not hold" in error_of(content, saved)


def quantized(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value / 0, "512 values of 512 that are NaN or infinite"),
        (lambda value: torch.full_like(value, 1e300, dtype=torch.float64), "NaN or infinite"),
        (quantized, "has the dtype qint8"),
        (lambda value: value.to(torch.int8), "has the dtype int8"),
        (lambda value: value.to(torch.complex64), "has the dtype complex64"),
        (lambda value: value.to_sparse(), "has no dense values"),
        (lambda value: value.to("meta"), "has no dense values"),
    ],
    ids=["nan", "overflow", "quantized", "integers", "complex", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore")
def test_rejects_values(change, message, saved):
    weights = network(1).state_dict()
    weights["backbone.layer1.0.conv1.weight"] = change(weights["backbone.layer1.0.conv1.weight"].abs() + 1)
    text = error_of(weights, saved)
    assert "backbone.layer1.0.conv1.weight" in text and message in text


@pytest.mark.parametrize("norm", ["backbone.layer1.0.bn1", "neck.norm"])
def test_rejects_negative_variances(norm, saved):
    weights = network(1).state_dict()
    weights[f"{norm}.running_var"][-1] = -1e-9
    assert f"{norm}.running_var has negative values, which no variance has" in error_of(weights, saved)


@pytest.mark.parametrize("kept", [(), ("bias",), ("running_var", "running_mean")])
def test_rejects_zeros(kept, saved):
    """As of a model that was saved before it was loaded, or of a file that was only allocated."""
    weights = network(1).state_dict()
    zeros = {name: value if name.endswith(kept) and kept else value * 0 for name, value in weights.items()}
    assert "hold zeros only: give the weights of a trained network" in error_of(zeros, saved)


def test_fits_a_network_without_values(saved):
    with torch.device("meta"):
        shapes = network(1)
    fit = fit_weights(shapes, saved(network(1).state_dict()))
    assert fit.identities == 5 and fit.weights.keys() == shapes.state_dict().keys()
