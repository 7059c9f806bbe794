"""Weights from files that may come from anywhere."""

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
def test_a_whole_network(wrap, tmp_path):
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


def test_a_backbone_alone_leaves_neck_and_head(tmp_path):
    torch.save(network(1).backbone.state_dict(), tmp_path / "w.pth")
    other = network(2)
    load_weights(other, tmp_path / "w.pth")
    assert same(other.backbone, network(1).backbone)
    assert same(other.neck, network(2).neck)
    assert same(other.head, network(2).head)


def test_a_published_backbone_may_bring_its_classifier(tmp_path):
    published = timm.create_model("resnet26", num_classes=10, **SMALL)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    other = network(2)
    load_weights(other, tmp_path / "w.pth")
    assert torch.equal(other.backbone.layer4[1].conv3.weight, published.layer4[1].conv3.weight)


def refused(tmp_path: Path, weights: object, name: str = "w.pth") -> str:
    torch.save(weights, tmp_path / name)
    other = network(2)
    with pytest.raises(UserError) as raised:
        load_weights(other, tmp_path / name)
    assert same(other, network(2)), "some of the weights were loaded"
    return str(raised.value)


class TestOfATrainedNetwork:
    """`trained`: neck and all, with or without a classifier for the same identities."""

    def test_with_its_classifier(self, tmp_path):
        torch.save(network(1).state_dict(), tmp_path / "w.pth")
        other = network(2)
        load_weights(other, tmp_path / "w.pth", trained=True)
        assert same(other, network(1))

    @pytest.mark.parametrize("identities", [0, 7])
    def test_without_it_or_for_other_identities(self, tmp_path, identities):
        torch.save(network(1, identities).state_dict(), tmp_path / "w.pth")
        other = network(2)
        load_weights(other, tmp_path / "w.pth", trained=True)
        assert other.head is None
        assert same(other, network(1, identities=0)) or identities
        assert torch.equal(other.neck.linear.weight, network(1, identities).neck.linear.weight)
        assert other.eval().features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).logits.shape == (2, 0)

    def test_a_backbone_alone_is_refused(self, tmp_path):
        torch.save(network(1).backbone.state_dict(), tmp_path / "w.pth")
        with pytest.raises(UserError, match="are those of a backbone only"):
            load_weights(network(2), tmp_path / "w.pth", trained=True)


def test_a_mismatch_lists_the_keys(tmp_path):
    weights = network(1, identities=6).state_dict()
    weights["neck.extra"] = weights.pop("neck.linear.weight")
    message = refused(tmp_path, weights)
    assert "1 missing: neck.linear.weight" in message
    assert "1 not in the network: neck.extra" in message
    assert "1 of another shape: head.weight (6, 12) instead of (5, 12)" in message


def test_a_backbone_with_too_few_weights_is_refused(tmp_path):
    weights = network(1).backbone.state_dict()
    del weights["conv1.weight"]
    assert "1 missing: conv1.weight" in refused(tmp_path, weights)


def test_another_backbone_is_refused_in_few_lines(tmp_path):
    message = refused(tmp_path, timm.create_model("resnet50", num_classes=0).state_dict())
    assert "of another shape" in message or "not in the network" in message
    assert len(message) < 2000


def test_nothing_is_refused(tmp_path):
    assert "missing" in refused(tmp_path, {})


def test_what_is_not_a_dictionary_of_tensors_is_refused(tmp_path):
    assert "dictionary of tensors" in refused(tmp_path, [torch.zeros(3)])
    assert "dictionary of tensors" in refused(tmp_path, {"epoch": 3})


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    assert "cannot be read safely" in refused(tmp_path, {"model": Evil()})
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_missing_and_damaged_files_are_named(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(UserError, match="does not exist"):
        load_weights(network(1), path)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=name):
        load_weights(network(1), path)
