"""Formats to which a student is exported, and the runtimes that execute them.

A format is a class: `write` exports a network to a folder, and an instance executes what was written. The libraries are
optional and imported when a format is used.
"""

import warnings
from abc import ABC, abstractmethod
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, nearest

INPUT, OUTPUT, BATCH = "images", "embeddings", "batch"
"""Names of the input, the output and the dynamic dimension of an exported network."""
MAX_BATCH = 64
"""Largest batch of a TensorRT engine; larger ones are divided."""


class Runtime(ABC):
    """An exported network, executed by a runtime.

    Args:
        folder: The folder in which `write` has written the network.
        device: Device of the images and the embeddings.
        threads: Number of CPU threads.

    Raises:
        UserError: The runtime cannot use the device.
    """

    package: ClassVar[str]
    """The package that executes the network."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that must be installed, in addition to torch."""
    extra: ClassVar[str] = ""
    """The extra of this package that installs them."""
    file: ClassVar[str]
    """Name of the file that a user opens."""

    @abstractmethod
    def __init__(self, folder: Path, device: torch.device, threads: int) -> None: ...

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return the (B, dim) embeddings of a batch of any size."""

    @classmethod
    @abstractmethod
    def write(cls, network: nn.Module, example: Tensor, folder: Path) -> None:
        """Export a network with one input and one output, whose first dimension is dynamic, to files in a folder."""

    @classmethod
    def title(cls) -> str:
        """Return the name and version of the package that executes the network."""
        return f"{cls.package} {version(cls.package)}"


class TorchExport(Runtime):
    """A program of `torch.export`, without the Python code of the network."""

    package, file = "torch", "student.pt2"

    def __init__(self, folder: Path, device: torch.device, threads: int) -> None:
        self._module = torch.export.load(folder / self.file).module().requires_grad_(False)

    def __call__(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self._module(images)
        return embeddings

    @classmethod
    def write(cls, network: nn.Module, example: Tensor, folder: Path) -> None:
        shapes = {INPUT: {0: torch.export.Dim(BATCH, min=1)}}
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), folder / cls.file)


class Onnx(Runtime):
    """ONNX, executed by onnxruntime."""

    package, needs, extra, file = "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), "onnx", "student.onnx"

    def __init__(self, folder: Path, device: torch.device, threads: int) -> None:
        import onnxruntime

        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise UserError("onnxruntime cannot use CUDA here: install onnxruntime-gpu, or use --device cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(folder / self.file, options, providers=[provider])

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run([OUTPUT], {INPUT: images.cpu().numpy()})[0]).to(images.device)

    @classmethod
    def write(cls, network: nn.Module, example: Tensor, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter's own code
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: BATCH}},
            )
        assert program is not None  # it is None only for the older exporter
        program.save(folder / cls.file, external_data=False)


class OpenVino(Runtime):
    """OpenVINO's intermediate representation, on the CPU."""

    package, needs, extra = "openvino", ("openvino", *Onnx.needs[:2]), "openvino"
    file = "student.xml"

    def __init__(self, folder: Path, device: torch.device, threads: int) -> None:
        import openvino

        if device.type != "cpu":
            raise UserError("OpenVINO does not use NVIDIA GPUs: use --device cpu")
        # By default, it computes in bfloat16 where the processor can.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._model = openvino.Core().compile_model(folder / self.file, "CPU", settings)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._model(images.numpy())[0])

    @classmethod
    def write(cls, network: nn.Module, example: Tensor, folder: Path) -> None:
        import openvino

        Onnx.write(network, example, folder)
        # Not `convert_model`, which sends statistics of its use.
        model = openvino.Core().read_model(folder / Onnx.file)
        openvino.save_model(model, folder / cls.file, compress_to_fp16=False)
        del model  # which may have mapped the file
        (folder / Onnx.file).unlink()


class TensorRt(Runtime):
    """A TensorRT engine for the GPU on which it is built, in float32 without TF32."""

    package, needs, extra, file = "tensorrt", ("tensorrt", *Onnx.needs[:2]), "tensorrt", "student.engine"

    def __init__(self, folder: Path, device: torch.device, threads: int) -> None:
        tensorrt = import_module(self.package)
        _require_cuda(device)
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        self._runtime = tensorrt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine((folder / self.file).read_bytes())
        self._context = self._engine.create_execution_context()
        self._dim = self._engine.get_tensor_shape(OUTPUT)[1]

    def __call__(self, images: Tensor) -> Tensor:
        return torch.cat([self._execute(part.contiguous()) for part in images.split(MAX_BATCH)])

    def _execute(self, images: Tensor) -> Tensor:
        embeddings = torch.empty(len(images), self._dim, device=images.device)
        self._context.set_input_shape(INPUT, tuple(images.shape))
        self._context.set_tensor_address(INPUT, images.data_ptr())
        self._context.set_tensor_address(OUTPUT, embeddings.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT could not execute the engine")
        return embeddings

    @classmethod
    def write(cls, network: nn.Module, example: Tensor, folder: Path) -> None:
        tensorrt: Any = import_module(cls.package)
        _require_cuda(example.device)
        Onnx.write(network, example, folder)
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        graph = builder.create_network(0)
        parser = tensorrt.OnnxParser(graph, logger)
        if not parser.parse((folder / Onnx.file).read_bytes()):
            raise RuntimeError(f"TensorRT cannot read the network: {parser.get_error(0)}")
        config = builder.create_builder_config()
        config.clear_flag(tensorrt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *((batch, *example.shape[1:]) for batch in (1, 1, MAX_BATCH)))  # least, usual, most
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(graph, config)
        if engine is None:
            raise RuntimeError("TensorRT cannot build an engine of the network")
        (folder / cls.file).write_bytes(engine)
        (folder / Onnx.file).unlink()


FORMATS: dict[str, type[Runtime]] = {
    "onnx": Onnx,
    "torch-export": TorchExport,
    "openvino": OpenVino,
    "tensorrt": TensorRt,
}
"""Formats by name."""


def find_format(name: str) -> type[Runtime]:
    """Return the format of this name.

    Raises:
        UserError: There is none, or a package that it needs is not installed.
    """
    if name not in FORMATS:
        raise UserError(f"--to {name}: choose {', '.join(FORMATS)}{nearest(name, FORMATS)}")
    found = FORMATS[name]
    if missing := [module for module in found.needs if find_spec(module) is None]:
        raise UserError(
            f"--to {name} needs {' and '.join(missing)}: pip install 'retrieval-distill-benchmark[{found.extra}]'"
        )
    return found


def _require_cuda(device: torch.device) -> None:
    if device.type != "cuda":
        raise UserError("TensorRT needs an NVIDIA GPU: use --device cuda on a machine that has one")
