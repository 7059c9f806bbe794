"""Loading of weights from files of any origin."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import load_weights

SMALL = {"channels": [8, 16, 32, 64]}


def network(seed: int, identities: int = 5) -> Embedder:
    torch.manual_seed(seed)
    return Embedder("resnet26", SMALL, dim=12, identities=identities)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "student"])
def test_whole_network(wrap, tmp_path):
    weights = network(1).state_dict()
    torch.save({wrap: weights, "epoch": 3} if wrap else weights, tmp_path / "w.pth")
    other = network(2)
    load_weights(other, tmp_path / "w.pth")
    assert same(other, network(1))


def test_safetensors(tmp_path):
    save_file(network(1).state_dict(), tmp_path / "w.safetensors")
    other = network(2)
    load_weights(other, tmp_path / "w.safetensors")
    assert same(other, network(1))


def test_backbone_only_keeps_neck_and_head(tmp_path):
    torch.save(network(1).backbone.state_dict(), tmp_path / "w.pth")
    other = network(2)
    load_weights(other, tmp_path / "w.pth")
    assert same(other.backbone, network(1).backbone)
    assert same(other.neck, network(2).neck)
    assert same(other.head, network(2).head)


def test_published_backbone_with_classifier(tmp_path):
    published = timm.create_model("resnet26", num_classes=10, **SMALL)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    other = network(2)
    load_weights(other, tmp_path / "w.pth")
    assert torch.equal(other.backbone.layer4[1].conv3.weight, published.layer4[1].conv3.weight)


def error_of(tmp_path: Path, weights: object, name: str = "w.pth") -> str:
    """Return the message of the error, and check that no weights were loaded."""
    torch.save(weights, tmp_path / name)
    other = network(2)
    with pytest.raises(UserError) as raised:
        load_weights(other, tmp_path / name)
    assert same(other, network(2))
    return str(raised.value)


class TestTrainedNetwork:
    """With `trained`, the neck is required. A classifier for the same identities is optional."""

    def test_with_classifier(self, tmp_path):
        torch.save(network(1).state_dict(), tmp_path / "w.pth")
        other = network(2)
        load_weights(other, tmp_path / "w.pth", trained=True)
        assert same(other, network(1))

    @pytest.mark.parametrize("identities", [0, 7])
    def test_without_classifier_or_for_other_identities(self, tmp_path, identities):
        torch.save(network(1, identities).state_dict(), tmp_path / "w.pth")
        other = network(2)
        load_weights(other, tmp_path / "w.pth", trained=True)
        assert other.head is None
        assert same(other, network(1, identities=0)) or identities
        assert torch.equal(other.neck.linear.weight, network(1, identities).neck.linear.weight)
        assert other.eval().features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).logits.shape == (2, 0)

    def test_rejects_a_backbone_only(self, tmp_path):
        torch.save(network(1).backbone.state_dict(), tmp_path / "w.pth")
        with pytest.raises(UserError, match="contain a backbone only"):
            load_weights(network(2), tmp_path / "w.pth", trained=True)


def test_mismatch_lists_the_keys(tmp_path):
    weights = network(1, identities=6).state_dict()
    weights["neck.extra"] = weights.pop("neck.linear.weight")
    message = error_of(tmp_path, weights)
    assert "1 missing: neck.linear.weight" in message
    assert "1 not in the network: neck.extra" in message
    assert "1 of another shape: head.weight (6, 12) instead of (5, 12)" in message


def test_rejects_an_incomplete_backbone(tmp_path):
    weights = network(1).backbone.state_dict()
    del weights["conv1.weight"]
    assert "1 missing: conv1.weight" in error_of(tmp_path, weights)


def test_message_for_another_backbone_is_short(tmp_path):
    message = error_of(tmp_path, timm.create_model("resnet50", num_classes=0).state_dict())
    assert "of another shape" in message or "not in the network" in message
    assert len(message) < 2000


def test_rejects_no_weights(tmp_path):
    assert "missing" in error_of(tmp_path, {})


def test_rejects_other_content(tmp_path):
    assert "dictionary of tensors" in error_of(tmp_path, [torch.zeros(3)])
    assert "dictionary of tensors" in error_of(tmp_path, {"epoch": 3})


def test_code_in_a_file_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    assert "cannot be read safely" in error_of(tmp_path, {"model": Evil()})
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_missing_and_damaged_files(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(UserError, match="does not exist"):
        load_weights(network(1), path)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=name):
        load_weights(network(1), path)
