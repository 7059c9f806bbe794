"""Training: one student, one method, one mmengine Runner."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.visualization import Visualizer

from benchmark.data.decode import train_transform
from benchmark.data.loaders import train_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.engine.compat import DistillOptimWrapper, QuietRunner, load_checkpoint
from benchmark.engine.distiller import Distiller, TaskLoss
from benchmark.engine.files import LAST
from benchmark.engine.hooks import CheckpointHook, ProgressHook, RetrievalMetric, SkippedHook, StructureHook, restore
from benchmark.engine.optimization import build_optimizer, build_schedule, learning_rates
from benchmark.evaluation import TestSet
from benchmark.method import Method, Plan
from benchmark.model.embedder import Embedder
from benchmark.recipe import Recipe


@dataclass
class Trained:
    """A student after its last epoch, as it was trained, and the method that knows how to deploy it."""

    student: Embedder
    method: Method


def train(
    recipe: Recipe,
    test: TestSet,
    student: Embedder,
    teacher: Embedder | None,
    method: Method,
    folder: Path,
    device: torch.device,
    resume: bool,
    title: str,
) -> Trained:
    """Train `student` by the recipe's `train` section and return it.

    A finished training in `folder` is loaded, an unfinished one continues where `resume` is true.

    Args:
        recipe: What to do.
        test: The dataset, with its test images.
        student: The network to train, on `device`.
        teacher: A trained network on `device`, frozen here; None for a method that needs none.
        method: Called as its contract says.
        folder: The run's folder.
        device: Where to compute.
        resume: Whether to continue from `checkpoints/last.pt`.
        title: What to call this training on the screen.
    """
    settings, dataset = recipe.train, test.dataset
    loader = train_loader(
        dataset,
        train_transform(recipe.image_size, **settings.augment.model_dump()),
        identities=settings.sampler.identities,
        images=settings.sampler.images,
        seed=recipe.seed,
        loading=test.loading,
        views=settings.sampler.views,
    )
    distiller = assemble(recipe, dataset, student, teacher, method, len(loader)).to(device)

    last = folder / LAST
    if resume and last.exists():
        content = load_checkpoint(last, device)
        if content["epoch"] == settings.schedule.epochs:
            restore(distiller, content)
            return Trained(student.eval(), method)

    optimizer = build_optimizer(distiller, settings.optimizer)
    progress = ProgressHook(title, folder, settings.sampler.batch_size)
    validation = _validation(recipe, test)
    runner = QuietRunner(
        model=distiller,
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": settings.schedule.epochs, "val_interval": recipe.evaluate.every},
        optim_wrapper=optim_wrapper(recipe, distiller, optimizer, device),
        param_scheduler=build_schedule(optimizer, settings.schedule, len(loader)),
        default_hooks=dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "checkpoint")),
        custom_hooks=[
            StructureHook(bool(recipe.runtime.compile)),
            progress,
            SkippedHook(folder),
            CheckpointHook(last, resume),
        ],
        visualizer=Visualizer(
            name=f"{folder.name}-{time.time_ns()}",  # a visualiser too is kept by its name
            vis_backends=[{"type": "TensorboardVisBackend"}] if recipe.runtime.tensorboard else None,
            save_dir=str(folder / "tensorboard"),
        ),
        randomness={"seed": recipe.seed},
        experiment_name=f"{folder.parent.name}-{folder.name}",
        **validation,
    )
    try:
        runner.train()
    finally:
        progress.stop()
        runner.visualizer.close()
        # Workers that are left to the garbage collector, which the runner's cycles would do, take five seconds each.
        loader._iterator = None
    return Trained(student.eval(), method)


def assemble(
    recipe: Recipe,
    dataset: RetrievalDataset,
    student: Embedder,
    teacher: Embedder | None,
    method: Method,
    steps_per_epoch: int,
) -> Distiller:
    """Prepare the method and join it with networks and task loss, as `train` does; the teacher is frozen."""
    settings = recipe.train
    if teacher is not None:
        teacher.requires_grad_(False).eval()
    rates = learning_rates(settings.optimizer, settings.schedule, steps_per_epoch)
    plan = Plan.from_recipe(
        recipe,
        labels=np.array([dataset.labels[sample.identity] for sample in dataset.train]),
        identities=len(dataset.labels),
        steps=len(rates),
        learning_rate=lambda step: float(rates[step]),
    )
    method.prepare(student, teacher, plan)
    student.tap(method.student_taps)
    if teacher is not None:
        teacher.tap(method.teacher_taps)
    return Distiller(student, teacher, method, TaskLoss(settings.task), recipe.runtime.compile)


def optim_wrapper(
    recipe: Recipe, distiller: Distiller, optimizer: torch.optim.Optimizer, device: torch.device
) -> DistillOptimWrapper:
    """What turns losses into a step: autocast, clipping, and the method's edits of the gradients."""
    clip = recipe.train.optimizer.clip_grad
    return DistillOptimWrapper(
        optimizer,
        clip_grad={"max_norm": clip} if clip else None,
        before_step=lambda: distiller.method.after_backward(distiller.student),
        autocast=device.type if uses_bfloat16(recipe, device) else None,
    )


def uses_bfloat16(recipe: Recipe, device: torch.device) -> bool:
    """Whether to autocast: as the recipe says; by `auto` where the device computes in bfloat16, not emulates it."""
    if recipe.runtime.amp != "auto":
        return recipe.runtime.amp == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def _validation(recipe: Recipe, test: TestSet) -> dict[str, object]:
    if not recipe.evaluate.every:
        return {}
    return {"val_dataloader": test.loader(), "val_cfg": {}, "val_evaluator": [RetrievalMetric(test)]}
