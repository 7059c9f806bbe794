"""Teachers that a class of `TEACHERS` defines."""

import sys

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.experiment.networks import frozen_teacher
from benchmark.model.cost import count
from benchmark.model.embedder import Embedder
from benchmark.model.plugin import build_plugin
from benchmark.model.serialize import load_network, save_student
from benchmark.recipe import Network
from benchmark.registry import TEACHERS


class Striped(nn.Module):
    """Embeds images by the means of their rows, after a convolution."""

    stages = (("conv", 4),)

    def __init__(self, dim: int = 4, logits: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.conv = nn.Conv2d(3, 4, 3)
        if logits:
            self.logits = nn.Linear(4, logits)

    def embed(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return self.conv(images.float()).mean((2, 3))


class Outside:
    """A teacher that computes outside of PyTorch."""

    dim = 3

    def embed(self, images: Tensor) -> Tensor:
        return torch.from_numpy(images.cpu().numpy().mean((2, 3)))


class Stated(Outside):
    """A teacher that computes outside of PyTorch and states its cost."""

    cost = 10, 1234


class Free:
    """A teacher whose members are its arguments."""

    dim = 3

    def __init__(self, **members: object) -> None:
        returned = {name: members.pop(name) for name in ("embed", "logits") if name in members}
        vars(self).update(members)
        self.dtype = getattr(torch, str(returned.get("embed", "float32")))
        if "logits" in returned:
            dtype = returned["logits"]
            self.logits = lambda embeddings: None if dtype is None else embeddings.to(getattr(torch, dtype))

    def embed(self, images: Tensor) -> Tensor:
        return images.to(self.dtype).mean((2, 3))


@pytest.fixture(scope="module", autouse=True)
def registered():
    for cls in (Striped, Outside, Stated, Free):
        TEACHERS.register_module(cls.__name__.lower())(cls)
    yield
    for cls in (Striped, Outside, Stated, Free):
        TEACHERS.classes.pop(cls.__name__.lower())


def teacher(name: str, **args: object) -> Embedder:
    settings = Network(backbone=f"plugin:{name}", args=args, neck="none", last_stride=2)
    return frozen_teacher(settings, identities=5)


def test_gets_the_pixels():
    pixels = torch.arange(256).repeat(3).view(1, 3, 16, 16).to(torch.uint8)
    network = teacher("striped")
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), network.backbone.model.embed(pixels))
    assert network.head is None
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_logits_and_maps():
    network = teacher("striped", logits=5)
    network.tap(["stage1"])
    features = network.features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert (features.logits.shape, features.taps["stage1"].shape) == ((2, 5), (2, 4, 6, 6))


def test_cost():
    assert count(teacher("striped"), (8, 8)).macs == 36 * 4 * 27
    assert count(teacher("striped", logits=9), (8, 8)) == count(teacher("striped"), (8, 8))
    assert count(teacher("stated"), (8, 8)).macs == 1234
    with pytest.raises(UserError, match=r"cost of the teacher outside cannot be counted.* an attribute `cost`"):
        count(teacher("outside"), (8, 8))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("strippped", {}, "unknown teacher 'strippped'; did you mean 'striped'"),
        ("striped", {"dims": 4}, "teacher striped has no argument 'dims'; did you mean 'dim'"),
        ("striped", {"logits": "x"}, "teacher striped cannot be created with .*: TypeError"),
        ("striped", {"dim": "4"}, "Striped must define `embed.self, images.` and the positive integer `dim`"),
        ("striped", {"dim": 0}, "the positive integer `dim`"),
        ("free", {"stages": ["conv"]}, r"teacher free: stages: \['conv'\]: must be pairs of the name of a module"),
        ("free", {"cost": [1, 0]}, r"teacher free: cost: \[1, 0\]: must be two positive integers"),
        ("exported", {}, r"teacher exported needs the argument path: set teacher\.network\.args\.path"),
        ("exported", {"path": "none.pt2"}, "none.pt2: not a file"),
    ],
)
def test_cannot_be_created(name, args, message):
    with pytest.raises(UserError, match=message):
        build_plugin(f"plugin:{name}", args)


def test_any_arguments():
    assert teacher("free", dim=4, color="red").backbone.model.color == "red"


def test_any_dtype():
    network = teacher("free", embed="float64", logits="float16")
    features = network.features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert (features.embedding.dtype, features.logits.dtype) == (torch.float32, torch.float32)


def test_wrong_logits():
    network = teacher("free", logits=None)
    with pytest.raises(UserError, match=r"logits returns NoneType for 2 images: return \(2, identities\)"):
        network.features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_is_shared_until_it_is_used():
    settings = {"stages": []}
    assert build_plugin("plugin:free", settings) is (first := build_plugin("plugin:free", settings))
    assert teacher("free", **settings).backbone is first
    assert build_plugin("plugin:free", settings) is not first, "its device may be another one now"


def test_wrong_shape():
    with pytest.raises(UserError, match=r"embed returns \(2, 4\) for 2 images: return \(2, 5\)"):
        teacher("striped", dim=5)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_no_stages():
    with pytest.raises(UserError, match="plugin:outside has no stage or module 'stage1', and states no stages"):
        teacher("outside").tap(["stage1"])


def test_stage_that_is_no_module():
    with pytest.raises(UserError, match="plugin:free has no module 'cnov', which it states as stage1: correct its st"):
        teacher("free", stages=[["cnov", 4]]).tap(["stage1"])


def test_a_student_file_cannot_run_a_plugin(tmp_path):
    save_student(Embedder("resnet10t", dim=8), tmp_path / "student.pt", (32, 32))
    content = torch.load(tmp_path / "student.pt", weights_only=True)
    content["architecture"] |= {"backbone": "plugin:exported", "args": {"path": "x.pt2"}}
    torch.save(content, tmp_path / "student.pt")
    with pytest.raises(UserError, match="unknown backbone 'plugin:exported'"):
        load_network(tmp_path / "student.pt")


class TestExported:
    @pytest.fixture
    def export(self, tmp_path):
        """`export(network, images)` exports a network, and returns the arguments of the teacher."""

        def write(network: nn.Module, images: Tensor, **options: object) -> dict[str, object]:
            program = torch.export.export(network.eval(), (images,), **options)
            torch.export.save(program, tmp_path / "network.pt2")
            return {"path": str(tmp_path / "network.pt2")}

        return write

    def test_of_floats_with_any_batch_size(self, export):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        args = export(network, torch.zeros(2, 3, 8, 8), dynamic_shapes=shapes)
        images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
        loaded = teacher("exported", **args, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), network((images / 255 - 0.5) / 0.25))
        assert (loaded.dim, count(loaded, (8, 8)).macs) == (4, 36 * 4 * 27)

    def test_of_pixels_with_a_fixed_batch_size(self, export):
        network = Embedder("resnet10t", neck="none", last_stride=2)
        loaded = teacher("exported", **export(network, torch.zeros(2, 3, 32, 32, dtype=torch.uint8)))
        images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), network(images), rtol=1e-4, atol=1e-5)

    def test_not_an_embedder(self, export, tmp_path):
        with pytest.raises(UserError, match="export a network that maps one batch of images"):
            teacher("exported", **export(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)))
        (tmp_path / "other.pt2").write_text("text")
        with pytest.raises(UserError, match=r"other.pt2 is not a program of torch.export"):
            teacher("exported", path=str(tmp_path / "other.pt2"))


class TestTransformers:
    def test_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(UserError, match=r"needs the package transformers: pip install '.*\[transformers\]'"):
            teacher("transformers", model="owner/name")

    @pytest.fixture
    def folder(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        torch.manual_seed(0)
        config = transformers.ViTConfig(image_size=32, patch_size=8, **sizes)
        transformers.ViTModel(config).save_pretrained(tmp_path)
        transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.slow
    @pytest.mark.parametrize("pool", ["cls", "mean", "pooler"])
    def test_model(self, folder, pool):
        network = teacher("transformers", model=str(folder), pool=pool)
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        with torch.no_grad():
            output = network.backbone.model.model(pixel_values=(images / 255 - 0.5) / 0.25)
            hidden = output.last_hidden_state
            expected = {"cls": hidden[:, 0], "mean": hidden.mean(1), "pooler": output.pooler_output}[pool]
            torch.testing.assert_close(network(images), expected)
            assert network(torch.zeros(1, 3, 48, 24, dtype=torch.uint8)).shape == (1, 16)
        assert count(network, (32, 32)).macs > 10_000

    @pytest.mark.slow
    def test_text_is_not_part_of_the_teacher(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        text, vision = sizes | {"vocab_size": 50}, sizes | {"image_size": 32, "patch_size": 8}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        whole = transformers.CLIPModel(config)
        whole.save_pretrained(tmp_path)
        transformers.CLIPImageProcessor().save_pretrained(tmp_path)
        counted = sum(parameter.numel() for parameter in whole.vision_model.parameters())
        for pool, dim, extra in (("cls", 16, 0), ("pooler", 16, 0), ("image", 8, 16 * 8 + 1)):
            network = teacher("transformers", model=str(tmp_path), pool=pool)
            assert (network.dim, count(network, (32, 32)).parameters) == (dim, counted + extra)

    @pytest.mark.slow  # imports transformers
    def test_missing_model(self, tmp_path):
        pytest.importorskip("transformers")
        with pytest.raises(UserError, match=r"teacher transformers: .*none could not be loaded"):
            teacher("transformers", model=str(tmp_path / "none"))
