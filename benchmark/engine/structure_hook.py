"""Structural changes between epochs."""

import gc

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmark.method import Progress
from benchmark.model.surgery import follow


class StructureHook(Hook):
    """Tells method and task loss about epochs, and lets the optimiser's state follow what the method narrowed."""

    priority = "VERY_HIGH"

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled

    def before_train_epoch(self, runner: Runner) -> None:
        runner.train_dataloader.batch_sampler.set_epoch(runner.epoch)
        runner.model.task.epoch = runner.epoch + 1

    def after_train_epoch(self, runner: Runner) -> None:
        progress = Progress(epoch=runner.epoch + 1, epochs=runner.max_epochs, step=runner.iter)
        changes = runner.model.method.after_epoch(runner.model.student, progress)
        follow(runner.optim_wrapper.optimizer, changes)
        if changes:
            if self.compiled:
                torch.compiler.reset()  # or after eight changes of shape torch stops compiling
            gc.collect()  # a graph of the last step that a reference cycle keeps alive would know the old shapes
