"""Student files: round trips, their content, and files that cannot be written or read."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_network, save_student, weights_hash
from benchmark.model.surgery import keep_inputs, keep_outputs

SMALL = {"channels": [8, 16, 32, 64]}
ARCHITECTURE = {
    "backbone": "resnet26",
    "args": SMALL,
    "stem": "stride1",
    "last_stride": 1,
    "pool": "avg",
    "neck": "linear",
    "dim": 12,
}
"""The architecture of the network "plain"."""


def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def prune(network: Embedder) -> Embedder:
    """Remove inner channels of a block, as a method that compresses does."""
    rows = torch.tensor([1, 4, 6])
    block = network.backbone.layer4[0]
    keep_outputs(block.conv2, rows)
    block.bn2 = nn.BatchNorm2d(3)
    keep_inputs(block.conv3, rows)
    return network


NETWORKS = {
    "plain": lambda: Embedder("resnet26", SMALL, stem="stride1", last_stride=1, dim=12, identities=7),
    "bn neck, gem": lambda: Embedder("resnet26", SMALL, neck="bn", pool="gem"),
    "pruned": lambda: prune(Embedder("resnet26", SMALL, dim=12)),
    "pruned and folded": lambda: fold_batchnorm(prune(Embedder("resnet26", SMALL, dim=12)), images()),
    "mobile": lambda: fold_batchnorm(Embedder("tf_mobilenetv3_small_minimal_100", dim=12), images()),
    "vit": lambda: Embedder("test_vit", {"img_size": 32, "patch_size": 8}, dim=12),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(name, tmp_path):
    student = NETWORKS[name]().eval()
    save_student(student, tmp_path / "student.pt", (32, 32))
    loaded = load_network(tmp_path / "student.pt")
    assert not loaded.training
    assert loaded.head is None
    torch.testing.assert_close(loaded(images()), student(images()), rtol=1e-4, atol=1e-5)
    assert weights_hash(loaded) == weights_hash(student)


def test_round_trip_of_a_loaded_student(tmp_path):
    save_student(NETWORKS["pruned and folded"](), tmp_path / "a.pt", (32, 32))
    loaded = load_network(tmp_path / "a.pt")
    save_student(loaded, tmp_path / "b.pt", (32, 32))
    assert weights_hash(load_network(tmp_path / "b.pt")) == weights_hash(loaded)


def test_file_content(tmp_path):
    save_student(NETWORKS["plain"](), tmp_path / "student.pt", (32, 24))
    content = torch.load(tmp_path / "student.pt", weights_only=True)
    assert content["image_size"] == [32, 24]
    assert not any(name.startswith("head") for name in content["weights"])


def test_image_size_of_the_network(tmp_path):
    network = Embedder("resnet14t", dim=8, image_size=(16, 16)).eval()
    save_student(network, tmp_path / "student.pt", (32, 32))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    loaded = load_network(tmp_path / "student.pt")
    assert loaded.image_size == (16, 16)
    assert torch.allclose(loaded(images), network(images), rtol=0, atol=1e-5)


def test_hash_depends_on_weights_and_not_on_the_head():
    network = NETWORKS["plain"]()
    other = copy.deepcopy(network)
    other.head = None
    assert weights_hash(other) == weights_hash(network)
    with torch.no_grad():
        other.neck.linear.weight[0, 0] += 1e-3
    assert weights_hash(other) != weights_hash(network)


@pytest.mark.parametrize(
    "replace",
    [
        lambda network: setattr(network.backbone, "act1", nn.Hardtanh()),
        lambda network: setattr(network.backbone.layer1[0], "conv1", nn.Sequential(nn.Conv2d(32, 2, 1))),
        lambda network: setattr(network.neck, "act", nn.PReLU()),
    ],
)
def test_rejects_a_layer_that_no_edit_describes(replace, tmp_path):
    network = NETWORKS["plain"]()
    replace(network)
    with pytest.raises(TypeError, match="student file cannot describe"):
        save_student(network, tmp_path / "student.pt", (32, 32))
    assert not list(tmp_path.iterdir())


def test_rejects_a_normalization_of_another_width(tmp_path):
    network = Embedder("test_vit", {"img_size": 32, "patch_size": 8})
    network.backbone.norm = type(network.backbone.norm)(3)
    with pytest.raises(TypeError, match=r"backbone\.norm\.weight"):
        save_student(network, tmp_path / "student.pt", (32, 32))


class TestInvalidFile:
    def expect(self, path: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as raised:
            load_network(path)
        assert str(path) in str(raised.value)

    def altered(self, tmp_path: Path, **changes: object) -> Path:
        save_student(NETWORKS["plain"](), tmp_path / "student.pt", (32, 32))
        content = torch.load(tmp_path / "student.pt", weights_only=True)
        torch.save(content | changes, tmp_path / "student.pt")
        return tmp_path / "student.pt"

    def test_missing(self, tmp_path):
        self.expect(tmp_path / "student.pt", "does not exist")

    def test_folder(self, tmp_path):
        self.expect(tmp_path, "is a folder")

    def test_truncated(self, tmp_path):
        path = self.altered(tmp_path)
        path.write_bytes(path.read_bytes()[:1000])
        self.expect(path, "truncated or damaged")

    def test_code_is_not_executed(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "touched",)

        torch.save({"format": 1, "evil": Evil()}, tmp_path / "student.pt")
        self.expect(tmp_path / "student.pt", "would run code")
        assert not (tmp_path / "touched").exists()

    def test_weights_only(self, tmp_path):
        torch.save(NETWORKS["plain"]().state_dict(), tmp_path / "student.pt")
        self.expect(tmp_path / "student.pt", "not a student file of format 1")

    def test_later_format(self, tmp_path):
        self.expect(self.altered(tmp_path, format=2), "not a student file of format 1")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("backbone", "resnet62", "unknown backbone 'resnet62'"),
            ("backbone", "hf-hub:timm/resnet18.a1_in1k", "unknown backbone"),
            ("backbone", "local-dir:/tmp/model", "unknown backbone"),
            ("backbone", "resnet26.a1/../../x", "unknown backbone"),
            ("backbone", "resnet26.nonsense", "has no weights 'nonsense'"),
            ("backbone", 3, "architecture.backbone: Input should be a valid string"),
            ("depth", 3, "architecture.depth: Extra inputs"),
            ("pretrained", True, "architecture.pretrained: Extra inputs"),
            ("identities", 10, "architecture.identities: Extra inputs"),
            ("head", "cosine", "architecture.head: Extra inputs"),
            ("dim", 10**9, "architecture.dim: Input should be less than"),
            ("dim", "12", "architecture.dim: Input should be a valid integer"),
            ("dim", 24, "neck.linear.weight has"),
            ("stem", "none", "architecture.stem"),
            ("image_size", [0, 32], "architecture.image_size.0: Input should be greater"),
            ("mean", [0.5, 0.5], "architecture.mean.2: Field required"),
            ("std", [0.0, 1.0, 1.0], "architecture.std.0: Input should be greater"),
            ("std", [1e-300, 1.0, 1.0], "architecture.std.0: Input should be greater"),
            ("args", {"channels": [8, 16, 32]}, "cannot be built"),
            ("args", {"channels": [2**21] * 4}, "args of resnet26: channels must be a number"),
            ("args", {"layers": [10**6] * 4}, "cannot be built here: resnet26 would have more than 10,000 modules"),
            ("args", {"block_args": {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}}, "args of resnet26: block_args must"),
        ],
    )
    def test_architecture(self, key, value, message, tmp_path):
        self.expect(self.altered(tmp_path, architecture=ARCHITECTURE | {key: value}), re.escape(message))

    def test_tables_that_no_weights_bound(self, tmp_path):
        """The table of relative positions has the fourth power of the window's size."""
        with torch.device("meta"):
            network = Embedder("swin_tiny_patch4_window7_224", {"img_size": 512, "window_size": 128}, dim=8)
        weights = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()}
        path = self.altered(tmp_path, architecture=network.architecture, image_size=[512, 512], weights=weights)
        self.expect(path, r"it computes tables of [\d,]+ MiB, more than 256 are possible")

    @pytest.mark.parametrize("key", ["backbone", "args", "stem", "last_stride", "pool", "neck", "dim"])
    def test_incomplete_architecture(self, key, tmp_path):
        rest = {name: value for name, value in ARCHITECTURE.items() if name != key}
        self.expect(self.altered(tmp_path, architecture=rest), f"architecture.{key}: Field required")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("weights", {}, "the weights have no tensor backbone"),
            ("weights", {"x": torch.zeros(1)}, "the weights have no tensor|an unknown tensor"),
            ("weights", {"x": None}, "weights.x: Input should be an instance of Tensor"),
            ("weights", None, "weights: Input should be a valid dictionary"),
            ("weights", {3: torch.zeros(1)}, "weights.3.*: Input should be a valid string"),
            ("image_size", "32", "image_size: Input should be a valid tuple"),
            ("image_size", [10**6, 32], "image_size.0: Input should be less than"),
            ("image_size", [True, 32], "image_size.0: Input should be a valid integer"),
            ("edits", [], "edits: Input should be a valid dictionary"),
            ("edits", {"backbone.conv1": {"type": "LSTM", "input_size": 3}}, "edits.backbone.conv1.*LSTM"),
            ("edits", {"backbone.conv1": {"type": "Identity", "x": 1}}, "edits.*x: Extra inputs"),
            (
                "edits",
                {"backbone.maxpool": {"type": "BlurPool2d", "channels": 9, "filt_size": 64, "stride": 2}},
                "edits.backbone.maxpool.BlurPool2d.filt_size: Input should be less than",
            ),
            ("edits", {"backbone.none": {"type": "Identity"}}, "cannot be built: the file is damaged or was changed"),
            ("edits", {"": {"type": "Identity"}}, "cannot be built"),
            ("edits", {"backbone": {"type": "Identity"}}, "cannot be built|unknown tensor"),
            (
                "edits",
                {"backbone.maxpool": {"type": "Linear", "in_features": 1, "out_features": 2**30, "bias": True}},
                "less",
            ),
            (
                "edits",
                {"neck.act": {"type": "Linear", "in_features": 3, "out_features": 3, "bias": False}},
                "no tensor",
            ),
            ("extra", 1, "extra: Extra inputs"),
        ],
    )
    def test_other_parts(self, key, value, message, tmp_path):
        self.expect(self.altered(tmp_path, **{key: value}), message)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda value: value / 0, "NaN or infinite"),
            (lambda value: value[:3], "instead of"),
            (lambda value: value.double(), "float64 values instead of"),
            (lambda value: value.to("meta"), "missing, NaN or infinite"),
            (lambda value: value.to_sparse(), "missing, NaN or infinite"),
        ],
    )
    def test_values(self, change, message, tmp_path):
        weights = dict(NETWORKS["plain"]().eval().state_dict())
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
        weights["neck.linear.weight"] = change(weights["neck.linear.weight"])
        self.expect(self.altered(tmp_path, weights=weights), f"neck.linear.weight .*{message}")

    def test_negative_variance(self, tmp_path):
        weights = dict(NETWORKS["plain"]().eval().state_dict())
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
        weights["neck.norm.running_var"] = -weights["neck.norm.running_var"]
        self.expect(self.altered(tmp_path, weights=weights), "neck.norm.running_var has negative values")


OPENING = {
    "checkpoint_path": "other.pth",
    "pretrained": True,
    "pretrained_cfg": {"file": "other.pth"},
    "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth", "hf_hub_id": "a/b", "file": "other.pth"},
    "cache_dir": "cache",
    "features_only": True,
    "pruned": True,
    "scriptable": True,
    "pretrained_strict": False,
    "pretrained_filter_fn": "os.system",
    "num_classes": 3,
    "in_chans": 1,
    "device": "cuda",
    "hf_hub": "a/b",
}
"""Arguments of timm's factories that open files or connections, or change what the network returns."""


@pytest.mark.parametrize("argument", OPENING)
def test_opens_nothing_but_the_file(argument, tmp_path, reads_only, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = TestInvalidFile().altered(
        tmp_path, architecture=ARCHITECTURE | {"args": SMALL | {argument: OPENING[argument]}}
    )
    torch.save(timm.create_model("resnet26", num_classes=0, **SMALL).state_dict(), "other.pth")
    with reads_only(path), pytest.raises(UserError, match=f"'{argument}'"):
        load_network(path)


def test_a_valid_file_opens_nothing_else(tmp_path, reads_only):
    save_student(NETWORKS["pruned and folded"](), tmp_path / "student.pt", (32, 32))
    with reads_only(tmp_path / "student.pt"):
        load_network(tmp_path / "student.pt")


class TestInput:
    """A loaded student accepts the images for which it was trained, and names them otherwise."""

    @pytest.fixture
    def student(self, tmp_path):
        save_student(NETWORKS["plain"](), tmp_path / "student.pt", (32, 24))
        return load_network(tmp_path / "student.pt")

    def test_is_shown(self, student):
        assert student.input_size == (32, 24)
        assert "input: (B, 3, 32, 24) uint8 RGB images with values from 0 to 255, output: (B, 12)" in str(student)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (
                torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
                r"not \(2, 3, 64, 64\) uint8: resize them, or set .*input_size",
            ),
            (torch.rand(2, 3, 32, 24), "not .* float32: do not scale or normalize"),
            (torch.zeros(3, 32, 24, dtype=torch.uint8), r"not \(3, 32, 24\) uint8: .*images\[None\]"),
            (torch.zeros(2, 32, 24, 3, dtype=torch.uint8), r"images\.permute\(0, 3, 1, 2\)"),
            (torch.zeros(2, 1, 32, 24, dtype=torch.uint8), "three channels, RGB"),
            (torch.zeros(2, 4, 32, 24, dtype=torch.uint8), "three channels, RGB"),
            (torch.zeros(32, 24, dtype=torch.uint8), "three channels, RGB"),
            (np.zeros((2, 3, 32, 24), np.uint8), "not ndarray"),
            ([1, 2], "not list"),
        ],
        ids=["size", "float", "one image", "channels last", "gray", "alpha", "matrix", "array", "list"],
    )
    def test_other_input(self, student, images, message):
        with pytest.raises(UserError, match=r"the network expects \(B, 3, 32, 24\) uint8 RGB images.*" + message):
            student(images)

    def test_any_size_on_request(self, student):
        student.input_size = None
        assert student(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 12)


def test_statistics_of_the_images_are_kept(tmp_path):
    network = Embedder("resnet26", SMALL, dim=12, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)).eval()
    save_student(network, tmp_path / "student.pt", (32, 32))
    loaded = load_network(tmp_path / "student.pt")
    assert loaded.statistics == network.statistics
    torch.testing.assert_close(loaded(images()), network(images()))


def test_interpolation_is_kept(tmp_path):
    network = Embedder("resnet26", SMALL, dim=12, image_size=(24, 24), interpolation="bicubic").eval()
    save_student(network, tmp_path / "student.pt", (32, 32))
    assert torch.equal(load_network(tmp_path / "student.pt").normalize(images()), network.normalize(images()))
    bilinear = Embedder("resnet26", SMALL, dim=12, image_size=(24, 24))
    assert not torch.equal(bilinear.normalize(images()), network.normalize(images()))
    assert "interpolation" not in bilinear.architecture, "files of earlier versions lack it"


def test_full_disk_leaves_no_file(tmp_path, full_disk):
    with pytest.raises(OSError, match="too large"), full_disk(1000):
        save_student(Embedder("test_resnet", last_stride=2, dim=12), tmp_path / "student.pt", (32, 32))
    assert not list(tmp_path.iterdir())
