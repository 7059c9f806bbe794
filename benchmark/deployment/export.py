"""Export of students to other runtimes."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.deployment.int8 import quantize
from benchmark.deployment.runtimes import INPUT, OUTPUT, Runtime
from benchmark.deployment.student import Student
from benchmark.errors import UserError, nearest
from benchmark.utils.atomic import write_text
from benchmark.utils.escape import terminal

PREPROCESSING = ("inside", "outside")
"""Where pixels are normalized: in the exported network, or by the program that uses it."""
DESCRIPTION_FILE = "preprocessing.json"
"""Describes the input of an exported network, next to it."""
_LONGEST = 500
"""Largest number of characters of an exporter's message that are shown."""


class ExportedStudent:
    """A student in another runtime, which maps (B, 3, H, W) uint8 images to (B, dim) embeddings of unit length.

    Args:
        student: The student that was exported.
        runtime: What executes it.
        preprocessing: One of `PREPROCESSING`.
    """

    def __init__(self, student: Student, runtime: Runtime, preprocessing: str) -> None:
        self.runtime = runtime
        self._normalize = student.network.normalize if preprocessing == "outside" else None

    def __call__(self, images: Tensor) -> Tensor:
        return self.runtime(images if self._normalize is None else self._normalize(images))


def export_student(
    student: Student,
    folder: Path,
    runtime: type[Runtime],
    *,
    preprocessing: str = "inside",
    threads: int = 1,
    calibration: Tensor | None = None,
) -> ExportedStudent:
    """Export a student to files in a folder, and load them.

    The exported network returns embeddings of unit length, for any number of images at a time.

    Args:
        student: The student, on the device on which the exported network runs.
        folder: An existing folder for the network and `DESCRIPTION_FILE`, which describes its input.
        runtime: The format.
        preprocessing: "inside" to take uint8 pixels of the student's size as input; "outside" to take normalized
            floats, as `DESCRIPTION_FILE` describes.
        threads: Number of CPU threads of the runtime.
        calibration: (N, 3, H, W) uint8 training images to quantize the network to int8 with, which only ONNX supports;
            None for float32.

    Raises:
        UserError: The network cannot be exported, or the runtime cannot use the device.
    """
    if preprocessing not in PREPROCESSING:
        raise UserError(
            f"--preprocessing {preprocessing}: choose {' or '.join(PREPROCESSING)}"
            f"{nearest(preprocessing, PREPROCESSING)}"
        )
    images = torch.zeros(2, 3, *student.image_size, dtype=torch.uint8, device=student.device)
    example = images if preprocessing == "inside" else student.network.normalize(images)
    try:
        with torch.no_grad():
            runtime.write(_Exportable(student, preprocessing), example, folder)
            if calibration is not None:
                quantize(
                    folder / runtime.file,
                    calibration if preprocessing == "inside" else student.network.normalize(calibration),
                )
        exported = ExportedStudent(student, runtime(folder, student.device, threads), preprocessing)
    except UserError:
        raise
    except Exception as error:  # exporters raise many types, and the cause is the most precise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:_LONGEST] or type(cause).__name__
        backbone = student.network.architecture["backbone"]
        raise UserError(f"{backbone} cannot be exported to {runtime.file}: {terminal(reason)}") from error
    write_text(folder / DESCRIPTION_FILE, json.dumps(_describe(student, example, preprocessing), indent=2) + "\n")
    return exported


class _Exportable(nn.Module):
    """The computation that is exported."""

    def __init__(self, student: Student, preprocessing: str) -> None:
        super().__init__()
        self.network = copy.deepcopy(student.network)
        self.inside = preprocessing == "inside"
        for name, module in list(self.network.named_modules()):
            # The decomposition of torch's fused attention fails for some backbones with a dynamic batch.
            if hasattr(module, "fused_attn"):
                vars(module)["fused_attn"] = False
            unpadded = type(module) is nn.AvgPool2d and module.padding in (0, (0, 0)) and not module.divisor_override
            if unpadded and module.ceil_mode:
                self.network.set_submodule(name, _WithinImage(module))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.network.normalize(images) if self.inside else images
        return F.normalize(self.network.embed_normalized(pixels))


class _WithinImage(nn.Module):
    """Average pooling whose windows are not larger than the image, which OpenVINO refuses. The averages are the same.

    Args:
        pool: Pooling without padding, which averages the pixels of a window that are in the image.
    """

    def __init__(self, pool: nn.AvgPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        size = self.pool.kernel_size
        height, width = size if isinstance(size, tuple) else (size, size)
        window = min(height, maps.shape[2]), min(width, maps.shape[3])
        return F.avg_pool2d(maps, window, self.pool.stride, ceil_mode=True, count_include_pad=False)


def _describe(student: Student, example: Tensor, preprocessing: str) -> dict[str, Any]:
    """Return how an image becomes the input of the exported network."""
    resizes = [(list(student.image_size), "bilinear")]
    if preprocessing == "outside" and student.network.image_size not in (None, student.image_size):
        resizes.append((list(example.shape[2:]), student.network.interpolation))
    steps: list[dict[str, Any]] = [
        {"step": "turn upright", "by": "EXIF orientation"},
        {"step": "composite transparent pixels", "background": list(student.transform.background)},
        {"step": "convert", "to": "RGB"},
        *({"step": "resize", "size": size, "interpolation": kind, "antialias": True} for size, kind in resizes),
    ]
    if preprocessing == "outside":
        steps += [
            {"step": "divide", "by": 255},
            {"step": "normalize", "mean": list(student.mean), "std": list(student.std)},
        ]
    return {
        "input": {
            "name": INPUT,
            "shape": ["batch", *example.shape[1:]],
            "dtype": str(example.dtype).removeprefix("torch."),
        },
        "steps": steps,
        "output": {"name": OUTPUT, "shape": ["batch", student.dim], "dtype": "float32", "norm": 1},
    }
