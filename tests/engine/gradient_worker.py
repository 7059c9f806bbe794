"""A step of every method by one process and by several: `gradient_worker.py [--device cuda] FILE METHOD ...`.

For `test_processes.py` and `tools/gpu_check.py`.

The main process first takes the steps alone, with the whole batch. Then all processes take them, each with its part of
the batch. The main process writes the results to the file.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.data.batch import Batch
from benchmark.engine.compat import DistillOptimWrapper
from benchmark.engine.distiller import Distiller
from benchmark.engine.optimization import build_optimizer
from benchmark.engine.processes import mean_values
from benchmark.engine.task import TaskLoss
from benchmark.experiment.environment import choose_device
from benchmark.method import Plan
from benchmark.methods.cdd.gradient_reset import GradientReset
from benchmark.model.embedder import Embedder
from benchmark.recipe import Optimizer, Task
from benchmark.registry import METHODS
from benchmark.utils.distributed import part, process_group
from benchmark.utils.launch import launch

IMAGES, IDENTITIES = 48, 8
ARGUMENTS: dict[str, dict[str, Any]] = {
    "cdd": {"reset_from": 0.0, "ratio": 0.9},
    "resrep": {"mask_from": 0.0, "mask_every": 1, "mask_rows": 4},
    "phi_s": {"fit_images": 12},
    "raml": {"relations": "views"},
    "sp": {"stages": (3, 4)},
    "ssp": {"centroids": 4, "fit_images": 12},
    "whiten_mtd": {"fit_images": 12, "dim": 8},
}
"""Arguments that enable all terms of a method in its first step."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fitnet stages": ("fitnet", {"on": "stages"}),
    "sp embedding": ("sp", {"of": "embedding"}),
    "cdd+sp": ("cdd+sp", {"cdd": ARGUMENTS["cdd"]}),
    "whiten_mtd+unic": ("whiten_mtd+unic", {"whiten_mtd": ARGUMENTS["whiten_mtd"]}),
}
TEACHERS = {"whiten_mtd+unic": 2}
"""Number of teachers, where it is not one."""
LIVE = "live "
"""Beginning of the name of a step whose batch norms use the statistics of the batch."""
PLAN = Plan(
    labels=np.arange(IMAGES) % IDENTITIES,
    identities=IDENTITIES,
    batch_size=12,
    views=2,
    images_per_identity=4,
    epochs=4,
    steps=20,
    learning_rate=lambda step: 0.02,
    optimizer="sgd",
    momentum=0.9,
    weight_decay=5e-4,
    image_size=(32, 32),
)


def batch(device: torch.device) -> Batch:
    """A batch of six images in two views each, of three identities."""
    generator = torch.Generator().manual_seed(1)
    indices = torch.tensor([0, 8, 1, 9, 2, 10]).repeat_interleave(2)
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=generator)
    whole = Batch(images, torch.from_numpy(PLAN.labels)[indices], torch.zeros(12, dtype=torch.int64), indices)
    return Batch(*(each.to(device) for each in whole))


def step(name: str, batch: Batch) -> dict[str, Any]:
    """Return the loss, the edited gradients, and the states after a step in float64, with frozen batch norms or not."""
    live, name = name.startswith(LIVE), name.removeprefix(LIVE)
    method_name, arguments = VARIANTS.get(name, (name, ARGUMENTS.get(name, {})))
    torch.manual_seed(0)
    network: dict[str, Any] = {
        "backbone": "resnet14t",
        "args": {"channels": [8, 8, 16, 16], "stem_width": 8},
        "stem": "no_pool",
        "dim": 16,
        "head": "cosine",
        "identities": IDENTITIES,
    }
    device = batch.images.device
    teachers = [Embedder(**network).to(device) for _ in range(TEACHERS.get(name, 1))]
    student = Embedder(**network).to(device)
    method = METHODS.find(method_name)(**arguments)
    given = [each.requires_grad_(False).eval() for each in teachers] if method.needs.teacher else []
    method.prepare(student, method.needs.received(given), PLAN)
    student.tap(method.student_taps)
    for each in given:
        each.double().tap(method.teacher_taps)
    distiller = Distiller(student, given, method, TaskLoss(Task()), synchronize=live).to(device).double().train()
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.train(live)
        elif isinstance(module, GradientReset):
            module.float()  # which it computes in
    gradients: dict[str, Any] = {}

    def edit() -> None:
        method.after_backward(student)
        gradients.update({n: p.grad.clone() for n, p in distiller.named_parameters() if p.grad is not None})

    wrapper = DistillOptimWrapper(build_optimizer(distiller, Optimizer(lr=0.02)), before_step=edit, device=device)
    loss = float(distiller.train_step(batch, wrapper)["loss"])
    return {
        "loss": mean_values({"loss": loss})["loss"],
        "gradients": gradients,
        "state": distiller.state_dict(),
        "structure": method.structure(),
    }


def main(file: Path, names: list[str], device_name: str) -> None:
    torch.set_num_threads(1)
    device = choose_device(device_name)
    whole = batch(device)
    alone = {name: step(name, whole) for name in names if launch().rank == 0}
    with process_group(device) as is_main:
        own = Batch(*(each[part(len(each))] for each in whole))
        together = {name: step(name, own) for name in names}
    if is_main:
        torch.save({"alone": alone, "together": together}, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    main(arguments.file, arguments.names, arguments.device)
