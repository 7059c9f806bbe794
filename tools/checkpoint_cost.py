"""Measure a checkpoint of CDD at the paper's size, with the queues, as in format 1, and without them.

    python tools/checkpoint_cost.py                    ResNet-101, 256 x 256, queue 24,000 (about 4 GB of memory)
    python tools/checkpoint_cost.py --folder /scratch  on another disk
    python tools/checkpoint_cost.py --small            ResNet-18 and a queue of 1,000

Student, method and optimizer have the state of a training with a full queue: every parameter has a momentum. Without a
training, all values are those of the initialization, which does not change the sizes. `teacher_step` is the time of a
teacher's forward pass over one batch of 96 images, of which a resumed run needs 250 to fill the queue again; it is only
measured with `--teacher`, because it takes minutes on a CPU. Prints one JSON object.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.engine.compat import load_checkpoint, save_checkpoint
from benchmark.method import Plan
from benchmark.methods.cdd import CDD
from benchmark.model.residual_blocks import build

IDENTITIES, BATCH = 1_041, 96  # of MSMT17, and of the paper
ROUNDS = 3


def plan(images: int, size: int) -> Plan:
    """Return the plan of a training with a number of images of `size` x `size` pixels."""
    return Plan(
        labels=np.arange(images) % IDENTITIES,
        identities=IDENTITIES,
        batch_size=BATCH,
        views=1,
        epochs=120,
        steps=120 * (images // BATCH),
        learning_rate=lambda step: 0.01,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=5e-4,
        image_size=(size, size),
    )


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    start = time.perf_counter()
    result = function(argument)
    return time.perf_counter() - start, result


def size_of(value: Any) -> int:
    """Return the bytes of all tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(size_of, parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--teacher", action="store_true")
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    backbone, queue, size = ("resnet18", 1_000, 64) if arguments.small else ("resnet101", 24_000, 256)
    student, teacher = (
        build(backbone=backbone, stem="imagenet", dim=512, head="linear", identities=IDENTITIES) for _ in range(2)
    )
    method = CDD(queue=queue)
    method.prepare(student, teacher.eval(), plan(32_621, size))
    method.gradient_reset.filled = queue
    optimizer = torch.optim.SGD([*student.parameters(), *method.parameters()], lr=0.01, momentum=0.9)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    content = {
        "student": student.state_dict(),
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    queues = {name: value for name, value in method.named_buffers() if "queue" in name}
    result: dict[str, Any] = {"queues_mib": round(size_of(queues) / 2**20, 1)}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "last.pt"
        for name, added in (("with_queues", queues), ("without_queues", {})):
            checkpoint = content | {"method": {**content["method"], **added}}
            os.sync()
            written = [timed(lambda saved: save_checkpoint(saved, path), checkpoint)[0] for _ in range(ROUNDS)]
            read = [timed(lambda _: load_checkpoint(path, torch.device("cpu")), None)[0] for _ in range(ROUNDS)]
            result[name] = {
                "mib": round(path.stat().st_size / 2**20, 1),
                "write_seconds": [round(each, 2) for each in written],
                "read_seconds": [round(each, 2) for each in read],
            }
    if arguments.teacher:
        images = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8)
        with torch.no_grad():
            result["teacher_step_seconds"] = round(timed(teacher.features, images)[0], 2)
        result["teacher_steps"] = method.remembered_steps()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
