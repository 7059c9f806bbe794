"""Print a Markdown table of students in several runtimes: the largest difference from PyTorch, and the latency.

Usage: python tools/export_parity.py [STUDENT ...]

Without arguments, networks of several families with random weights are exported; else the given students, each a
`student.pt` or a folder that `load_student` takes. Differences are of embeddings of unit length, for 64 smooth random
images; `benchmark export` measures them on the images of a dataset.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from tabulate import tabulate
from torch.nn import functional as F

from benchmark import Embedder, Student, load_student
from benchmark.deployment.export import export_student
from benchmark.deployment.runtimes import FORMATS
from benchmark.model.cost import latency
from benchmark.model.fold import fold_batchnorm

CPU = torch.device("cpu")
SIZE = (128, 128)
FAMILIES = {
    "resnet18": {},
    "resnet50": {},
    "mobilenetv3_large_100": {},
    "efficientnet_b0": {},
    "regnety_002": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": SIZE[0]},
    "swin_tiny_patch4_window7_224": {"img_size": SIZE[0], "window_size": 4},
}
"""Backbones and their arguments."""


def students(arguments: list[str]) -> Iterator[tuple[str, Student]]:
    for path in arguments:
        student = load_student(path)
        yield f"{Path(path).parent.parent.name}, {student.image_size[0]} x {student.image_size[1]}", student
    for backbone, options in {} if arguments else FAMILIES.items():
        torch.manual_seed(0)
        network = Embedder(backbone, options, dim=128)
        with torch.no_grad():
            network.train()(smooth(16, SIZE))  # statistics of batch norms
        network = fold_batchnorm(network, smooth(2, SIZE))
        network.input_size = SIZE
        yield f"{backbone}, {SIZE[0]} x {SIZE[1]}", Student(network)


def smooth(count: int, size: tuple[int, int]) -> torch.Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (255 * F.interpolate(coarse, size, mode="bilinear")).to(torch.uint8)


def main() -> None:
    torch.set_num_threads(1)
    formats = [name for name in FORMATS if name != "tensorrt"]
    headers = ["student", "PyTorch, ms", *(text for name in formats for text in (f"{name}, difference", "ms"))]
    rows = []
    for name, student in students(sys.argv[1:]):
        images = smooth(64, student.image_size)
        with torch.inference_mode():
            expected = F.normalize(student(images))
        row = [name, times(student)]
        for format_ in formats:
            with tempfile.TemporaryDirectory() as folder:
                exported = export_student(student, Path(folder), FORMATS[format_])
                row += [f"{float((exported(images) - expected).abs().max()):.0e}", times(exported, student)]
        rows.append(row)
        print(row, file=sys.stderr)
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def times(network, student: Student | None = None) -> str:
    """Return the latency of 1 and of 64 images in milliseconds."""
    measured = latency(network, (student or network).image_size, CPU)
    return " / ".join(f"{measured[batch].median:.3g}" for batch in (1, 64))


if __name__ == "__main__":
    main()
