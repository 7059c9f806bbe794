"""Training of one network by one method, with an mmengine Runner."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.visualization import Visualizer

from benchmark.data.augment import train_transform
from benchmark.data.loaders import TrainingImages, train_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.engine.average import WeightAverage
from benchmark.engine.best_epoch import BestEpoch, Selection
from benchmark.engine.checkpoint import load_model_state, read_checkpoint, training_hash
from benchmark.engine.checkpoint_hook import CheckpointHook
from benchmark.engine.compat import DistillOptimWrapper, QuietRunner, TrainLoop
from benchmark.engine.distiller import Distiller, recompiling
from benchmark.engine.files import LAST_CHECKPOINT, StoredOutputs
from benchmark.engine.hooks import FreezeHook, ProgressHook, RetrievalMetric, SkippedHook, StructureHook
from benchmark.engine.optimization import build_optimizer, build_schedule
from benchmark.engine.plan import training_plan
from benchmark.engine.task import task_loss
from benchmark.engine.teacher_outputs import require_outputs_suffice, stored_outputs
from benchmark.engine.timetable import Timetable
from benchmark.evaluation import TestSet, out_of_memory
from benchmark.method import Method, as_tuple
from benchmark.model.embedder import Embedder
from benchmark.recipe import Recipe
from benchmark.utils import durations
from benchmark.utils.distributed import is_main_process, on_main, processes
from benchmark.utils.lifetime import finishing_steps
from benchmark.utils.memory import explain_shortage, keep_freed_memory
from benchmark.utils.precision import autocast_dtype


def train(
    student: Embedder,
    teacher: Embedder | Sequence[Embedder] | None,
    method: Method,
    *,
    recipe: Recipe,
    test: TestSet,
    folder: Path,
    resume: bool,
    title: str,
    outputs: Path | None = None,
) -> Selection | None:
    """Train `student` in place by the recipe's `train` section, and leave it in eval mode.

    If `folder` has the checkpoint of the last epoch and `resume` is true, that checkpoint is loaded instead.

    SIGTERM, SIGUSR1 and the recipe's `time_limit` end it after a step, with a checkpoint.

    Args:
        student: The network to train, on the device of `test`.
        teacher: A trained network on the same device, which is frozen here, or several; None if the method needs none.
        method: The method; its parameters are trained with the student.
        recipe: The run's recipe.
        test: The dataset and its test images.
        folder: The run's folder.
        resume: Continue from the checkpoint in `folder`; if False, start from the first epoch and replace it.
        title: Name of the training in the progress display.
        outputs: Folder of stored outputs of teachers, which a recipe with `teacher.cached_views` needs.

    Returns:
        The epoch that was selected on the validation images; None if the weights are those of the last epoch.

    Raises:
        UserError: A loss is not finite, an image is broken, or a checkpoint cannot be read or written.
        Stopped: A signal or the time limit has ended the training.
    """
    settings, runtime, device = recipe.train, recipe.runtime, torch.device(test.loading.device)
    loader = train_loader(
        test.dataset,
        train_transform(recipe.image_size, **settings.augment.model_dump(exclude={"load_size"})),
        identities=settings.sampler.identities,
        images=settings.sampler.images,
        seed=recipe.seed,
        loading=replace(test.loading, size=settings.augment.load_size or recipe.image_size),
        views=settings.sampler.views,
        fixed_views=recipe.teacher.cached_views,
    )
    distiller = assemble(student, teacher, method, recipe=recipe, dataset=test.dataset, steps_per_epoch=len(loader)).to(
        device
    )
    require_outputs_suffice(method, recipe.method.name, recipe)  # taps are known once the method is prepared

    checkpoint, training, content = folder / LAST_CHECKPOINT, training_hash(recipe, type(test.dataset)), None
    if resume and on_main(checkpoint.exists):
        content = read_checkpoint(checkpoint, training, settings.schedule.epochs)
        if content["epoch"] == settings.schedule.epochs:
            load_model_state(checkpoint, distiller, content)
            student.eval()
            return BestEpoch(content["best"]).selection

    if recipe.teacher.cached_views:
        assert outputs is not None, "a training with cached views has a folder for them"
        (only,) = as_tuple(teacher)
        source = cast(TrainingImages, loader.source)
        source.stored, distiller.stored = stored_outputs(only, source, recipe=recipe, test=test, root=outputs)
        stated = StoredOutputs.of(recipe.teacher.cached_views, source.stored)
        on_main(lambda: stated.write(folder))

    best = BestEpoch(content and content["best"]) if recipe.evaluate.epoch == "best" else None
    average = None if settings.ema is None else WeightAverage(student, settings.ema)
    optimizer = build_optimizer(distiller, settings.optimizer)
    tensorboard = runtime.tensorboard and is_main_process()
    limit = None if runtime.time_limit is None else durations.seconds(runtime.time_limit)
    progress = ProgressHook(title, folder, settings.sampler.batch_size)
    runner = QuietRunner(
        model=distiller,
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg={"type": TrainLoop, "max_epochs": settings.schedule.epochs, "val_interval": recipe.evaluate.every},
        optim_wrapper=optim_wrapper(distiller, optimizer, recipe, device),
        param_scheduler=build_schedule(optimizer, settings.schedule, len(loader)),
        default_hooks=dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "checkpoint")),
        custom_hooks=[
            StructureHook(average),
            FreezeHook(settings.schedule.frozen_epochs),
            progress,
            SkippedHook(folder),
            CheckpointHook(
                checkpoint,
                training,
                content,
                best=best,
                average=average,
                progress=progress,
                timetable=Timetable(runtime.checkpoint_minutes, limit),
                every=runtime.checkpoint_epochs,
            ),
        ],
        visualizer=Visualizer(
            name=f"{folder.name}-{time.time_ns()}",  # unique, because mmengine keeps visualizers by name
            vis_backends=[{"type": "TensorboardVisBackend"}] if tensorboard else None,
            save_dir=str(folder / "tensorboard"),
        ),
        randomness={"seed": recipe.seed},
        experiment_name=f"{folder.parent.name}-{folder.name}",
        **_validation(recipe, test),
    )
    del content  # as large as the networks; the hook frees it once it is loaded
    keep_freed_memory()
    try:
        explained = explain_shortage(lambda: _out_of_memory(title, distiller, recipe, device))
        with recompiling(runtime.compile), finishing_steps(), explained:
            runner.train()
    finally:
        progress.stop()
        runner.visualizer.close()
        # Ends the worker processes now. The runner is part of reference cycles, and workers that the garbage collector
        # ends delay the end of the training by five seconds.
        loader._iterator = None
    student.eval()
    return None if best is None else best.selection


def assemble(
    student: Embedder,
    teacher: Embedder | Sequence[Embedder] | None,
    method: Method,
    *,
    recipe: Recipe,
    dataset: RetrievalDataset,
    steps_per_epoch: int,
) -> Distiller:
    """Freeze the teachers, prepare the method, and combine them with the student and the task loss."""
    teachers = as_tuple(teacher)
    for each in teachers:
        each.requires_grad_(False).eval()
    method.prepare(student, method.needs.received(teachers), training_plan(recipe, dataset, steps_per_epoch))
    student.tap(method.student_taps)
    for each in teachers:
        each.tap(method.teacher_taps)
    task, runtime = task_loss(recipe, student, len(dataset.labels)), recipe.runtime
    return Distiller(student, teachers, method, task, runtime.compile, runtime.sync_batchnorm)


def optim_wrapper(
    distiller: Distiller, optimizer: torch.optim.Optimizer, recipe: Recipe, device: torch.device
) -> DistillOptimWrapper:
    """Combine the optimizer with autocast, gradient clipping, and the method's edits of the gradients."""
    clip = recipe.train.optimizer.clip_grad
    return DistillOptimWrapper(
        optimizer,
        clip_grad={"max_norm": clip} if clip else None,
        before_step=lambda: distiller.method.after_backward(distiller.student),
        device=device,
        autocast=autocast_dtype(recipe.runtime.amp, device),
    )


def _out_of_memory(title: str, distiller: Distiller, recipe: Recipe, device: torch.device) -> str:
    """Return the message if the memory does not suffice for a training."""
    if not distiller.training:
        return f"{title}: {out_of_memory(recipe.evaluate.batch_size, recipe.image_size, device)}"
    batch, (height, width), dtype = (
        recipe.train.sampler.batch_size,
        recipe.image_size,
        autocast_dtype(recipe.runtime.amp, device),
    )
    shared = f", {batch // processes()} on each of {processes()} processes" if processes() > 1 else ""
    precision = str(dtype).removeprefix("torch.")
    half = ", or set runtime.amp=bf16" if dtype == torch.float32 else ""
    return (
        f"{title}: out of memory on {device} with batches of {batch} images{shared}, of {height}x{width} pixels, in "
        f"{precision}: lower sampler.identities or sampler.images, in `train` or, for a teacher, in `teacher.train`, "
        f"lower image_size{half}, or share the batches among more processes. These start another run. To continue "
        "this one, free memory, and add --resume"
    )


def _validation(recipe: Recipe, test: TestSet) -> dict[str, Any]:
    """Return the runner's arguments for validation; an empty dict if there is no validation."""
    if not recipe.evaluate.every:
        return {}
    validation = test.validation()
    # Validation images are one list that is searched in itself, of which each process embeds its share.
    return {"val_dataloader": validation.loader("query"), "val_cfg": {}, "val_evaluator": [RetrievalMetric(validation)]}
