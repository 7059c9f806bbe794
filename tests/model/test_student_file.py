"""Student files: round trips, their content, and files that cannot be written or read."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import benchmark
from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_student, save_student, weights_hash
from benchmark.model.surgery import keep_inputs, keep_outputs

SMALL = {"channels": [8, 16, 32, 64]}


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
    loaded = benchmark.load_student(tmp_path / "student.pt")
    assert not loaded.training
    assert loaded.head is None
    torch.testing.assert_close(loaded(images()), student(images()), rtol=1e-4, atol=1e-5)
    assert weights_hash(loaded) == weights_hash(student)


def test_round_trip_of_a_loaded_student(tmp_path):
    save_student(NETWORKS["pruned and folded"](), tmp_path / "a.pt", (32, 32))
    loaded = load_student(tmp_path / "a.pt")
    save_student(loaded, tmp_path / "b.pt", (32, 32))
    assert weights_hash(load_student(tmp_path / "b.pt")) == weights_hash(loaded)


def test_file_content(tmp_path):
    save_student(NETWORKS["plain"](), tmp_path / "student.pt", (32, 24))
    content = torch.load(tmp_path / "student.pt", weights_only=True)
    assert content["image_size"] == [32, 24]
    assert not any(name.startswith("head") for name in content["weights"])


def test_image_size_of_the_network(tmp_path):
    network = Embedder("resnet14t", dim=8, image_size=(16, 16)).eval()
    save_student(network, tmp_path / "student.pt", (32, 32))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    loaded = load_student(tmp_path / "student.pt")
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
            load_student(path)
        assert str(path) in str(raised.value)

    def altered(self, tmp_path: Path, **changes: object) -> Path:
        save_student(NETWORKS["plain"](), tmp_path / "student.pt", (32, 32))
        content = torch.load(tmp_path / "student.pt", weights_only=True)
        torch.save(content | changes, tmp_path / "student.pt")
        return tmp_path / "student.pt"

    def test_missing(self, tmp_path):
        self.expect(tmp_path / "student.pt", "does not exist")

    def test_folder(self, tmp_path):
        self.expect(tmp_path, "not a readable student file")

    def test_text(self, tmp_path):
        (tmp_path / "student.pt").write_text("not a student")
        self.expect(tmp_path / "student.pt", "not a readable student file")

    def test_truncated(self, tmp_path):
        path = self.altered(tmp_path)
        path.write_bytes(path.read_bytes()[:1000])
        self.expect(path, "not a readable student file")

    def test_code_is_not_executed(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "touched",)

        torch.save({"format": 1, "evil": Evil()}, tmp_path / "student.pt")
        self.expect(tmp_path / "student.pt", "not a readable student file")
        assert not (tmp_path / "touched").exists()

    def test_weights_only(self, tmp_path):
        torch.save(NETWORKS["plain"]().state_dict(), tmp_path / "student.pt")
        self.expect(tmp_path / "student.pt", "not a student file of format 1")

    def test_later_format(self, tmp_path):
        self.expect(self.altered(tmp_path, format=2), "not a student file of format 1")

    def test_missing_weights(self, tmp_path):
        self.expect(self.altered(tmp_path, weights={}), "Missing key")

    def test_unknown_backbone(self, tmp_path):
        self.expect(self.altered(tmp_path, architecture={"backbone": "resnet62"}), "unknown backbone 'resnet62'")

    def test_unknown_architecture_key(self, tmp_path):
        self.expect(self.altered(tmp_path, architecture={"backbone": "resnet26", "depth": 3}), "depth")

    def test_unknown_layer_in_an_edit(self, tmp_path):
        edits = {"backbone.conv1": {"type": "LSTM", "input_size": 3}}
        self.expect(self.altered(tmp_path, edits=edits), "LSTM")


def test_full_disk_leaves_no_file(tmp_path, full_disk):
    with pytest.raises(OSError, match="too large"), full_disk(1000):
        save_student(Embedder("test_resnet", last_stride=2, dim=12), tmp_path / "student.pt", (32, 32))
    assert not list(tmp_path.iterdir())
