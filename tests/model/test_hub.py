"""Backbones in repositories of the Hugging Face Hub, from a local cache."""

import json
from collections.abc import Callable

import pytest
import timm
import torch
from safetensors.torch import save_file

from benchmark.errors import UserError
from benchmark.experiment.networks import frozen_teacher, untrained
from benchmark.model.embedder import Embedder
from benchmark.model.hub import find_hub_backbone
from benchmark.model.pretrained import require_pretrained
from benchmark.model.serialize import load_network, save_student
from benchmark.recipe import Network

NAME = "hf-hub:me/net"
ARGS = {"channels": [8, 8, 16, 16], "stem_width": 8}
CONFIG = {
    "architecture": "resnet14t",
    "num_classes": 0,
    "model_args": ARGS,
    "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": [3, 32, 32]},
}
Repository = Callable[..., None]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    find_hub_backbone.cache_clear()
    yield
    find_hub_backbone.cache_clear()


@pytest.fixture
def repository(tmp_path) -> Repository:
    """`repository(config, network)` writes the cache of the repository `me/net`."""

    def write(config: object, network: torch.nn.Module | None = None) -> None:
        folder = tmp_path / "hub" / "models--me--net"
        snapshot = folder / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
        (snapshot / "config.json").write_text(json.dumps(config))
        if network is not None:
            save_file(network.state_dict(), snapshot / "model.safetensors")

    return write


def test_architecture_weights_and_statistics(repository, tmp_path):
    torch.manual_seed(0)
    published = timm.create_model("resnet14t", num_classes=0, **ARGS).eval()
    repository(CONFIG, published)
    assert require_pretrained(NAME) is None
    network = frozen_teacher(Network(backbone=NAME, neck="none", last_stride=2), identities=0)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(network(images), published((images / 255 - 0.5) / 0.25), rtol=1e-4, atol=1e-5)

    save_student(network, tmp_path / "student.pt", (32, 32))
    find_hub_backbone.cache_clear()
    (tmp_path / "hub").rename(tmp_path / "gone")
    loaded = load_network(tmp_path / "student.pt")
    assert (loaded.architecture["backbone"], loaded.architecture["args"]) == ("resnet14t", ARGS)
    assert loaded.statistics == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_arguments_of_the_recipe_come_first(repository):
    repository(CONFIG)
    network = untrained(Network(backbone=NAME, args={"stem_width": 16}, weights="random"), identities=0)
    assert network.architecture["args"] == ARGS | {"stem_width": 16}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "not on this machine and could not be downloaded .*: check the name, connect"),
        ({"architectures": ["ViTModel"]}, "names no architecture of timm: .* use plugin:transformers"),
        ([1], "names no architecture of timm"),
        ({"architecture": "resnet9000"}, "unknown backbone 'resnet9000'"),
        (
            {"architecture": "resnet18", "model_args": {"checkpoint_path": "x"}},
            "'checkpoint_path' is not an argument of",
        ),
        ({"architecture": "plugin:exported", "model_args": {"path": "x.pt2"}}, "unknown backbone 'plugin:exported'"),
        (
            CONFIG | {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}},
            r"states std \[0.5, 0, 0.5\], which must be three numbers from 0.001 to 1: choose another repository",
        ),
        (CONFIG | {"pretrained_cfg": {"mean": "0.5"}}, "states mean 0.5, which must be three numbers from 0 to 1"),
    ],
)
def test_unusable_repository(repository, config, message):
    if config is not None:
        repository(config)
    with pytest.raises(UserError, match=message):
        Embedder(NAME)


@pytest.mark.parametrize("name", ["hf-hub:a--b/c", "hf-hub:../..", "hf-hub:a/b.git", "hf-hub:a/b@../../x"])
def test_name_that_the_hub_refuses(name):
    with pytest.raises(UserError, match=r"could not be downloaded \(.*\): check the name"):
        Embedder(name)


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:a", "hf-hub:a/b/c", "hf-hub:../x/y", "hf-hub:a/b@"])
def test_invalid_name(name):
    with pytest.raises(UserError, match="must be hf-hub:OWNER/NAME"):
        Embedder(name)


def test_missing_weights(repository):
    repository(CONFIG)
    with pytest.raises(
        UserError, match=r"pretrained weights of hf-hub:me/net .* are not on this machine, and HF_HUB_OFF"
    ):
        require_pretrained(NAME)
    with pytest.raises(UserError, match="pretrained weights of hf-hub:me/net could not be loaded"):
        Embedder(NAME, pretrained=True)
