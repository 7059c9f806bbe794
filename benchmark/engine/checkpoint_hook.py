"""The training hook that writes checkpoints and continues from them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmark.data.batch import Batch, PKBatchSampler
from benchmark.data.batch_loader import BatchLoader
from benchmark.engine.average import WeightAverage
from benchmark.engine.best_epoch import BestEpoch
from benchmark.engine.checkpoint import (
    FORMAT,
    load_average,
    load_model_state,
    load_optimization_state,
    load_random_state,
    load_statistics,
    refused,
    require_position,
)
from benchmark.engine.compat import save_checkpoint
from benchmark.engine.hooks import EpochPart, ProgressHook, note_broken
from benchmark.engine.processes import running_statistics
from benchmark.engine.timetable import Due, Timetable
from benchmark.utils.console import notify, progress
from benchmark.utils.distributed import from_all, is_main_process, on_main, processes, rank
from benchmark.utils.lifetime import Stopped


class CheckpointHook(Hook):
    """Writes checkpoints after epochs and between them, continues from them, and stops the training.

    The checkpoint has the student's structure and weights, the states of method, optimizer and schedule, the epoch and
    step, and the random state; it does not have the teacher. The hook runs after all other hooks of an epoch and after
    the epoch's validation, so the checkpoint includes structural changes and the metrics file the scores.

    Within an epoch, it also has the values in which processes differ: running statistics and sums of losses. The
    batches of the epoch and their augmentation follow from its number.

    If the best epoch is to be deployed, the checkpoint of the last epoch has the weights of the best one. If the
    weights are averaged, the average is validated, and the checkpoint of the last epoch has it as weights.

    Args:
        path: The checkpoint.
        training: The training's `training_hash`.
        content: The content of the checkpoint to continue from; None to start the training.
        best: The best epoch; None to deploy the last one.
        average: The average of the student's weights, if there is one.
        progress: The hook that adds up the losses.
        timetable: Decides when a checkpoint within an epoch or the end of the training is due.
        every: Number of epochs after which a checkpoint is written; 0 for none but that of the last epoch.
    """

    priority = "LOWEST"

    def __init__(
        self,
        path: Path,
        training: str,
        content: Mapping[str, Any] | None,
        *,
        best: BestEpoch | None,
        average: WeightAverage | None,
        progress: ProgressHook,
        timetable: Timetable,
        every: int = 1,
    ) -> None:
        self.path = path
        self.training = training
        self.content = content
        self.best = best
        self.average = average
        self.progress = progress
        self.timetable = timetable
        self.every = every
        self.statistics: list[torch.Tensor] = []
        """The running statistics of this process, within an epoch."""

    def before_run(self, runner: Runner) -> None:
        # Not in `before_train`, because other hooks read the epoch and step there.
        content, self.content = self.content, None  # which is as large as the networks
        if content is None:
            return
        require_position(self.path, content, len(runner.train_dataloader))
        load_model_state(self.path, runner.model, content)
        if self.average is not None:
            load_average(self.path, self.average, content)
        load_optimization_state(self.path, runner.optim_wrapper, runner.param_schedulers, content)
        for unit, now in (("threads", torch.get_num_threads()), ("processes", processes())):
            if content[unit] != now:
                notify(f"resumed with {now} {unit} instead of {content[unit]}: the result will not be bit-identical")
        if content["begun"]:
            own = content["begun"][rank() if content["processes"] == processes() else 0]
            self.statistics = own["statistics"]
            self.progress.begun = EpochPart(own["sums"], own["seconds"])
        runner.continue_from(content["epoch"], content["iter"])
        self._remember(runner)
        load_random_state(self.path, next(runner.model.parameters()).device, content)

    def before_train(self, runner: Runner) -> None:
        # Not in `before_run`, after which mmengine overwrites the networks of all processes with those of the first.
        if self.statistics:
            load_statistics(self.path, running_statistics(runner.model, self.average), self.statistics)
            self.statistics = []

    def _remember(self, runner: Runner) -> None:
        """Let the method store the teacher's outputs of the latest steps again."""
        model, loader = runner.model, runner.train_dataloader
        steps = model.method.remembered_steps()
        if steps > runner.iter:
            raise refused(self.path, f"is of step {runner.iter}, but its method remembers {steps} steps")
        if not steps:
            return
        batches = progress(_steps(loader, runner.iter - steps, runner.iter), "embedding earlier batches", steps)
        with runner.optim_wrapper.optim_context(model):
            for ago, batch in zip(range(steps, 0, -1), batches, strict=True):
                model.remember(batch, ago)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if batch_idx + 1 == len(runner.train_dataloader):  # the end of the epoch follows
            return
        due = self.timetable.due()
        if due:
            note_broken(runner, self.progress.folder)  # a run that resumes does not read the images of these steps
            begun = from_all(self._begun(runner))
            self._save(runner, runner.epoch, runner.iter + 1, begun)
        self._stop(runner, due, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        epoch = runner.epoch + 1
        if runner.val_loop is None or (epoch % runner.val_interval and epoch < runner.max_epochs):
            if self.average is not None and epoch == runner.max_epochs:
                self.average.swap()
            self._end_epoch(runner, epoch)

    def before_val_epoch(self, runner: Runner) -> None:
        if self.average is not None:
            self.average.swap()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.best is not None and metrics:
            self.best.consider(runner.model.student, runner.model.method, runner.epoch, metrics["mAP"])
            if runner.epoch == runner.max_epochs:
                self.best.restore(runner.model.student, runner.model.method)
        if self.average is not None and runner.epoch < runner.max_epochs:
            self.average.swap()
        self._end_epoch(runner, runner.epoch)

    def _end_epoch(self, runner: Runner, epoch: int) -> None:
        due = self.timetable.due()
        if due or epoch == runner.max_epochs or (self.every and epoch % self.every == 0):
            self._save(runner, epoch, runner.iter, [])
        self._stop(runner, due, runner.iter)

    def _stop(self, runner: Runner, due: Due, step: int) -> None:
        """Stop the training if that is due."""
        code = due.exit_code
        if code is not None:
            place = f"step {step} of {runner.max_iters} of the training of {self.progress.title}"
            message = f"stopped by {due.reason} after {place}"
            raise Stopped(code, message if is_main_process() else "")

    def _begun(self, runner: Runner) -> dict[str, Any]:
        """Return the values in which this process may differ from the others within an epoch."""
        part = self.progress.part()
        # A single process has the statistics in its networks.
        statistics = running_statistics(runner.model, self.average) if processes() > 1 else []
        return {
            "statistics": [value.cpu() for value in statistics],
            "sums": dict(part.sums),
            "seconds": part.seconds,
        }

    def _save(self, runner: Runner, epoch: int, step: int, begun: list[dict[str, Any]]) -> None:
        on_main(lambda: self._write(runner, epoch, step, begun))
        self.timetable.saved()

    def _write(self, runner: Runner, epoch: int, step: int, begun: list[dict[str, Any]]) -> None:
        model = runner.model
        device = next(model.parameters()).device
        save_checkpoint(
            {
                "format": FORMAT,
                "recipe": self.training,
                "epoch": epoch,
                "iter": step,
                "begun": begun,
                "structure": model.method.structure(),
                "student": model.student.state_dict(),
                "method": model.method.state_dict(),
                "task": model.task.state_dict(),
                "optimizer": runner.optim_wrapper.optimizer.state_dict(),
                "scaler": runner.optim_wrapper.scaler.state_dict(),
                "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
                "threads": torch.get_num_threads(),
                "processes": processes(),
                "random": torch.get_rng_state(),
                "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "best": None if self.best is None else self.best.state,
                "average": None if self.average is None else self.average.values,
            },
            self.path,
        )


def _steps(loader: BatchLoader, first: int, last: int) -> Iterator[Batch]:
    """Yield the batches of the steps of a training from `first`, counted from 0, to the one before `last`.

    Args:
        loader: The loader of the training, whose sampler is a `PKBatchSampler`.
        first: The first step.
        last: The step after the last one.
    """
    length, sampler = len(loader), cast(PKBatchSampler, loader.batch_sampler)
    for epoch in range(first // length, -(-last // length)):
        start = epoch * length
        sampler.set_epoch(epoch, slice(max(first - start, 0), min(last - start, length)))
        yield from loader
