"""Exported students: the same embeddings in every runtime, for every family of architectures."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F

from benchmark import Embedder, Student, UserError
from benchmark.deployment import runtimes
from benchmark.deployment.export import export_student
from benchmark.deployment.runtimes import FORMATS, Onnx, OpenVino, Runtime, TensorRt, TorchExport, find_format
from benchmark.model.layers import GeM

RUNNABLE = [TorchExport, Onnx, OpenVino]
runnable = pytest.mark.parametrize("runtime", RUNNABLE, ids=lambda runtime: runtime.__name__)
preprocessings = pytest.mark.parametrize("preprocessing", ["inside", "outside"])

FAMILIES = {
    "resnet, gem": {"backbone": "test_resnet", "pool": "gem", "neck": "bn"},
    "resnet, blur pool": {"backbone": "resnetblur50", "args": {"layers": [1] * 4, "channels": [8, 8, 16, 16]}},
    "resnet, average pool": {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 16]}, "stem": "no_pool"},
    "squeeze and excite": {"backbone": "seresnet18", "args": {"layers": [1] * 4, "channels": [8, 8, 16, 16]}},
    "efficientnet, same padding": {"backbone": "tf_mobilenetv3_small_minimal_100"},
    "efficientnet": {"backbone": "test_efficientnet"},
    "byobnet": {"backbone": "test_byobnet"},
    "convnext": {"backbone": "test_convnext2"},
    "normalizer-free": {"backbone": "test_nfnet"},
    "mambaout": {"backbone": "test_mambaout"},
    "vit": {"backbone": "test_vit", "args": {"img_size": 64, "depth": 1}},
    "vit, relative positions": {"backbone": "test_vit_relpos", "args": {"img_size": 64, "depth": 1}},
    "swin": {
        "backbone": "swin_tiny_patch4_window7_224",
        "args": {"img_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    },
    "coatnet": {"backbone": "test_coatnet", "args": {"img_size": 64}},
}
"""Small networks of the families of architectures."""


def images(student: Student, count: int) -> torch.Tensor:
    """Return smooth images, as photographs are."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(count))
    return (255 * F.interpolate(coarse, student.image_size, mode="bilinear")).to(torch.uint8)


def difference(student: Student, exported, count: int) -> float:
    batch = images(student, count)
    with torch.no_grad():
        expected = F.normalize(student(batch))
    embeddings = exported(batch)
    assert embeddings.shape == (count, student.dim) and embeddings.dtype == torch.float32
    return float((embeddings - expected).abs().max())


def cosines(student: Student, exported, count: int) -> torch.Tensor:
    batch = images(student, count)
    with torch.no_grad():
        return F.cosine_similarity(student(batch), exported(batch))


def build(**options) -> Student:
    torch.manual_seed(0)
    network = Embedder(**{"dim": 12, **options})
    network.input_size = (64, 64)
    with torch.no_grad():
        network.train()(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
    for module in network.modules():
        if isinstance(module, GeM):
            nn.init.constant_(module.exponent, 2.5)
    return Student(network)


@runnable
@preprocessings
def test_same_embeddings(tiny_student, runtime, preprocessing, tmp_path):
    exported = export_student(tiny_student, tmp_path, runtime, preprocessing=preprocessing)
    assert (tmp_path / runtime.file).is_file()
    for count in (1, 2, 5):
        assert difference(tiny_student, exported, count) < 1e-5


@preprocessings
def test_own_resolution_of_the_network(preprocessing, tmp_path):
    student = build(backbone="test_resnet", image_size=(48, 40))
    exported = export_student(student, tmp_path, Onnx, preprocessing=preprocessing)
    assert difference(student, exported, 3) < 1e-5


class TestInt8:
    @preprocessings
    def test_embeddings_are_similar(self, tiny_student, preprocessing, tmp_path):
        calibration = images(tiny_student, 40)
        exported = export_student(tiny_student, tmp_path, Onnx, preprocessing=preprocessing, calibration=calibration)
        for count in (1, 2, 5):
            assert cosines(tiny_student, exported, count).min() > 0.98
            assert exported(images(tiny_student, count)).norm(dim=1) == pytest.approx(np.ones(count), abs=1e-5)
        assert difference(tiny_student, exported, 5) > 1e-4
        assert sorted(path.name for path in tmp_path.iterdir()) == ["preprocessing.json", "student.onnx"]

    def test_weights_are_off_by_half_a_level(self, tiny_student, tmp_path):
        """Every output channel has 64 levels on either side of zero, the largest weight at one end."""
        export_student(tiny_student, tmp_path, Onnx, calibration=images(tiny_student, 40))
        graph = onnx.load(tmp_path / Onnx.file).graph
        arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        sources = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
        quantized = []
        for node in graph.node:
            if node.op_type == "Conv":
                codes, scale, zero = (arrays[name] for name in sources[node.input[1]].input)
                assert codes.dtype == np.int8 and np.abs(codes).max() <= 64 and not zero.any()
                quantized.append(codes * scale.reshape(-1, 1, 1, 1))
        convolutions = [module for module in tiny_student.network.modules() if isinstance(module, nn.Conv2d)]
        assert len(quantized) == len(convolutions) > 5
        for module in convolutions:
            weight = module.weight.detach().numpy()
            level = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 64
            similar = [each - weight for each in quantized if each.shape == weight.shape]
            assert any((np.abs(each) <= 0.501 * level).all() for each in similar)


def test_windows_of_a_pooling_that_are_larger_than_the_maps(tmp_path):
    """A ResNet reduces small images to one pixel, before a pooling of 2 x 2."""
    student = build(backbone="resnet14t", args={"channels": [8, 8, 16, 16], "stem_width": 8})
    student.network.input_size = student.image_size = (16, 24)
    exported = export_student(student, tmp_path, OpenVino)
    assert difference(student, exported, 3) < 1e-5


@preprocessings
def test_bicubic_interpolation(preprocessing, tmp_path):
    args = {"channels": [8, 8, 16, 16], "stem_width": 8}
    student = build(backbone="resnet14t", args=args, image_size=(24, 24), interpolation="bicubic")
    exported = export_student(student, tmp_path, Onnx, preprocessing=preprocessing)
    assert difference(student, exported, 3) < 1e-4
    steps = json.loads((tmp_path / "preprocessing.json").read_text())["steps"]
    kinds = [step["interpolation"] for step in steps if step["step"] == "resize"]
    assert kinds == (["bilinear", "bicubic"] if preprocessing == "outside" else ["bilinear"])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tmp_path, onnx_once):
    student = build(**FAMILIES[family])
    for runtime in RUNNABLE:
        exported = export_student(student, tmp_path, runtime)
        assert max(difference(student, exported, count) for count in (1, 3)) < 1e-4, runtime
    quantized = export_student(student, tmp_path, Onnx, calibration=images(student, 40))
    assert cosines(student, quantized, 3).min() > 0.85


def follow(steps: list[dict], path) -> np.ndarray:
    """Convert an image file as `preprocessing.json` says, with Pillow and NumPy only."""
    values: np.ndarray = np.empty(0)
    image: Image.Image = Image.open(path)
    for step in steps:
        match step["step"]:
            case "turn upright":
                image = ImageOps.exif_transpose(image)
            case "composite transparent pixels":
                if image.has_transparency_data:
                    canvas = Image.new("RGBA", image.size, (*step["background"], 255))
                    image = Image.alpha_composite(canvas, image.convert("RGBA"))
            case "convert":
                image = image.convert(step["to"])
            case "resize":
                assert (step["interpolation"], step["antialias"]) == ("bilinear", True)
                image = image.resize(step["size"][::-1], Image.Resampling.BILINEAR)
                values = np.asarray(image).transpose(2, 0, 1)
            case "divide":
                values = values.astype(np.float32) / step["by"]
            case "normalize":
                mean, std = (np.array(step[name], np.float32)[:, None, None] for name in ("mean", "std"))
                values = (values - mean) / std
            case _:
                raise AssertionError(step)
    return values


@preprocessings
def test_description_is_enough_to_use_an_export(tiny_student, pictures, preprocessing, tmp_path):
    import onnxruntime

    export_student(tiny_student, tmp_path, Onnx, preprocessing=preprocessing)
    description = json.loads((tmp_path / "preprocessing.json").read_text())
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    (known,) = session.get_inputs()
    assert known.shape == description["input"]["shape"] == ["batch", 3, 24, 32]
    assert known.type == {"uint8": "tensor(uint8)", "float32": "tensor(float)"}[description["input"]["dtype"]]
    paths = sorted(pictures(4).rglob("*.png"))
    paths[0].with_suffix(".webp").unlink(missing_ok=True)
    batch = np.stack([follow(description["steps"], path) for path in paths])
    output = description["output"]["name"]
    (embeddings,) = session.run([output], {description["input"]["name"]: batch})
    # Pillow rounds pixels between its two passes of a resize, by which they differ by a unit at most.
    cosines = (torch.from_numpy(embeddings) * tiny_student.embed(paths)).sum(1)
    assert cosines.min() > 0.999
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1)


def test_network_that_cannot_be_exported(tiny_student, tmp_path):
    class Branching(nn.Module):
        def forward(self, pixels):
            return pixels * 2 if float(pixels.sum()) > 0 else pixels

    tiny_student.network.neck.add_module("branching", Branching())
    with pytest.raises(UserError, match=r"resnet14t cannot be exported to student\.onnx: .+") as raised:
        export_student(tiny_student, tmp_path, Onnx)
    assert "\n" not in str(raised.value)


def test_unknown_preprocessing(tiny_student, tmp_path):
    with pytest.raises(UserError, match="--preprocessing insde: choose inside or outside; did you mean 'inside'"):
        export_student(tiny_student, tmp_path, TorchExport, preprocessing="insde")


class TestFormats:
    def test_unknown(self):
        with pytest.raises(UserError, match=r"--to onx: choose onnx, .*; did you mean 'onnx'"):
            find_format("onx")

    @pytest.mark.parametrize("name", ["onnx", "openvino", "tensorrt"])
    def test_missing_package(self, name, monkeypatch):
        monkeypatch.setattr(runtimes, "find_spec", lambda module: None)
        with pytest.raises(UserError, match=rf"--to {name} needs .*: pip install '.*\[{name}\]'"):
            find_format(name)

    @pytest.mark.parametrize("name", ["onnx", "openvino"])
    def test_devices(self, name, tiny_student, tmp_path):
        export_student(tiny_student, tmp_path, FORMATS[name])
        with pytest.raises(UserError, match="--device cpu"):
            FORMATS[name](tmp_path, torch.device("cuda"), 1)


class TestTensorRt:
    """Without a GPU: what is asked of the library."""

    @pytest.fixture
    def library(self, monkeypatch) -> SimpleNamespace:
        """A stand-in that records the network and the profile, and builds an engine or not."""
        seen = SimpleNamespace(flags=["TF32"], built=b"engine", parsed=True)

        class Parser:
            def __init__(self, graph, logger): ...

            def parse(self, content):
                seen.onnx = content
                return seen.parsed

            def get_error(self, index):
                return "unsupported operator"

        class Builder:
            def __init__(self, logger): ...

            def create_network(self, flags):
                return object()

            def create_builder_config(self):
                return SimpleNamespace(
                    clear_flag=seen.flags.remove,
                    add_optimization_profile=lambda profile: setattr(seen, "profile", profile),
                )

            def create_optimization_profile(self):
                shapes: list = []
                return SimpleNamespace(shapes=shapes, set_shape=lambda *shape: shapes.append(shape))

            def build_serialized_network(self, graph, config):
                return seen.built

        module = ModuleType("tensorrt")
        logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
        flags = SimpleNamespace(TF32="TF32")
        vars(module).update(Logger=logger, Builder=Builder, OnnxParser=Parser, BuilderFlag=flags)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(runtimes, "_require_cuda", lambda device: None)
        return seen

    def write(self, folder) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
        TensorRt.write(_Named(network), torch.zeros(2, 3, 4, 4), folder)

    def test_engine_of_the_onnx_network_in_float32(self, library, tmp_path):
        self.write(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["student.engine"]
        assert (tmp_path / "student.engine").read_bytes() == b"engine"
        assert b"embeddings" in library.onnx
        assert library.flags == []  # TF32 is off
        assert library.profile.shapes == [("images", (1, 3, 4, 4), (1, 3, 4, 4), (64, 3, 4, 4))]

    def test_failures(self, library, tmp_path):
        library.built = None
        with pytest.raises(RuntimeError, match="cannot build an engine"):
            self.write(tmp_path)
        library.parsed = False
        with pytest.raises(RuntimeError, match="cannot read the network: unsupported operator"):
            self.write(tmp_path)

    def test_large_batches_are_divided(self, monkeypatch):
        engine = TensorRt.__new__(TensorRt)
        parts = []
        monkeypatch.setattr(TensorRt, "_execute", lambda self, images: parts.append(len(images)) or images.flatten(1))
        batch = torch.arange(150.0).view(150, 1)
        assert torch.equal(engine(batch), batch)
        assert parts == [64, 64, 22]

    def test_needs_a_gpu(self, tiny_student, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
        with pytest.raises(UserError, match="TensorRT needs an NVIDIA GPU: use --device cuda"):
            export_student(tiny_student, tmp_path, TensorRt)


class _Named(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


def test_every_format_is_tested():
    assert [*RUNNABLE, TensorRt] == sorted(FORMATS.values(), key=[*RUNNABLE, TensorRt].index)
    assert all(issubclass(runtime, Runtime) for runtime in FORMATS.values())
