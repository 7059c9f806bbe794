"""Training hooks for structural changes and progress, and the validation metric."""

import gc
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from benchmark.engine.average import WeightAverage
from benchmark.engine.files import note_skipped, read_metrics, write_metrics
from benchmark.engine.processes import average_statistics, mean_values, require_equal
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.method import Progress
from benchmark.model.surgery import prune_optimizer_state
from benchmark.utils.console import Console
from benchmark.utils.distributed import from_all, on_main

READ_EVERY = 50
"""Number of steps between updates of the losses in the progress bar. Each update waits for the device."""


class RetrievalMetric(BaseMetric):
    """mAP and Recall@K over the validation images, for mmengine's validation loop.

    Embeddings are identified by the image's position in the test set. The loader may thus change the order, or repeat
    images as padding, without an effect on the scores.
    """

    default_prefix = ""  # metrics.jsonl has names without prefix

    def __init__(self, test: TestSet) -> None:
        super().__init__()
        self.test = test

    def evaluate(self, size: int) -> dict[str, float]:
        """Score the images of all processes.

        mmengine would score on one of them, and scoring needs all.
        """
        metrics = self.compute_metrics(self.results)
        self.results.clear()
        return metrics

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        self.results.extend(tuple(sample) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        if not results:
            raise UserError(f"{self.test.dataset.folder}: none of the test images can be read")
        unique = {int(index): vector for index, vector in results}
        positions = sorted(unique)
        scores = self.test.score_all(torch.stack([unique[index] for index in positions]), torch.tensor(positions))
        return {"mAP": scores.mAP, **{f"R@{k}": value for k, value in scores.recall.items()}}


class StructureHook(Hook):
    """Calls the method after every epoch to change the student's structure, and prunes the optimizer's state to match.

    Several processes first average their batch norm statistics. Afterwards, their networks must be equal.

    Args:
        average: The average of the student's weights, if there is one.
    """

    priority = "VERY_HIGH"

    def __init__(self, average: WeightAverage | None = None) -> None:
        self.average = average

    def before_train_epoch(self, runner: Runner) -> None:
        runner.train_dataloader.batch_sampler.set_epoch(runner.epoch, slice(runner.train_loop.done, None))
        runner.model.task.epoch = runner.epoch + 1

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if self.average is not None:
            self.average.update(runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        average_statistics(runner.model, self.average)
        progress = Progress(epoch=runner.epoch + 1, epochs=runner.max_epochs, step=runner.iter)
        changes = runner.model.method.after_epoch(runner.model.student, progress)
        prune_optimizer_state(runner.optim_wrapper.optimizer, changes)
        if self.average is not None:
            self.average.follow(changes)
        if changes:
            gc.collect()  # frees the last step's graph, which has the old shapes and may be in a reference cycle
        require_equal(runner.model, runner.epoch + 1)


class FreezeHook(Hook):
    """Keeps the backbone as it is for the first epochs: neither its weights nor its batch norms are updated.

    Args:
        epochs: Number of epochs.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.frozen: list[torch.nn.Parameter] = []
        self.epoch: int | None = None
        """The epoch for which the backbone is prepared."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self.epoch == runner.epoch:
            return
        self.epoch = runner.epoch
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []
        if runner.epoch < self.epochs:
            backbone = runner.model.student.backbone.eval()
            self.frozen = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
            for parameter in self.frozen:
                parameter.requires_grad_(False)
                parameter.grad = None


class SkippedHook(Hook):
    """Writes the list of skipped images after every epoch, for runs that are resumed."""

    priority = "LOW"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_train_epoch(self, runner: Runner) -> None:
        note_broken(runner, self.folder)


def note_broken(runner: Runner, folder: Path) -> None:
    """Add the images that the processes of a training have found to be broken to the list of skipped ones."""
    broken = from_all(runner.train_dataloader.source.images.broken())
    on_main(lambda: note_skipped(folder, {path for paths in broken for path in paths}))


@dataclass(frozen=True, slots=True)
class EpochPart:
    """The metrics of an epoch that has begun, on one process."""

    sums: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Sums of the losses over the steps, by name; each a scalar."""
    seconds: float = 0.0
    """Duration of the steps."""


class ProgressHook(Hook):
    """Shows the progress, and writes the metrics of every epoch to `metrics.jsonl`.

    On a terminal the progress is a bar with losses, learning rate, speed and remaining time; elsewhere it is a line per
    epoch. The metrics of an epoch are its mean losses, learning rate, images per second, the method's report and, if
    there was a validation, its scores. Losses are added up on the device and read once per epoch, so the host rarely
    waits for the device. Of several processes, the main one shows and writes; losses are means over all of them.

    Args:
        title: Name of the training.
        folder: The run's folder.
        batch_size: Number of images in a batch.

    Raises:
        UserError: The mean loss of an epoch is not finite.
    """

    priority = "LOW"

    def __init__(self, title: str, folder: Path, batch_size: int) -> None:
        self.title = title
        self.folder = folder
        self.batch_size = batch_size
        self.console = Console(stderr=True)
        self.rows: list[dict[str, Any]] = []
        self.sums: dict[str, torch.Tensor] = {}
        self.begun = EpochPart()
        """The part of the next epoch that an interrupted training has made."""
        self.bar: ProgressBar | None = None

    def before_train(self, runner: Runner) -> None:
        """Drop the metrics of epochs that a resumed run repeats, and start the bar."""
        on_main(lambda: self._start(runner))
        self.train_start, self.first_step = time.perf_counter(), runner.iter

    def _start(self, runner: Runner) -> None:
        self.rows = [row for row in read_metrics(self.folder) if row["epoch"] <= runner.epoch]
        report = runner.model.method.report(runner.model.student)
        if report and not self.rows:
            self.rows.append({"epoch": 0, **report})  # the values before the first step
            write_metrics(self.folder, self.rows)
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = ProgressBar(*columns, console=self.console, refresh_per_second=2, expand=True)
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=runner.max_iters, completed=runner.iter, state="")

    def before_train_epoch(self, runner: Runner) -> None:
        device = next(runner.model.parameters()).device
        self.sums = {name: value.to(device) for name, value in self.begun.sums.items()}
        self.epoch_start = time.perf_counter() - self.begun.seconds
        self.begun = EpochPart()
        if self.bar:
            self.bar.update(self.task, description=f"{self.title} {runner.epoch + 1}/{runner.max_epochs}", refresh=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, torch.Tensor] | None = None
    ) -> None:
        for name, value in (outputs or {}).items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
        if self.bar:
            self.bar.advance(self.task)
            if (batch_idx + 1) % READ_EVERY == 0:
                losses = "  ".join(f"{name} {float(total) / (batch_idx + 1):.3f}" for name, total in self.sums.items())
                speed = (batch_idx + 1) * self.batch_size / self._seconds()
                rate = runner.optim_wrapper.get_lr()["lr"][0]
                self.bar.update(self.task, state=f"{losses.replace('loss_', '')}  lr {rate:.1e}  {speed:.0f} images/s")

    def part(self) -> EpochPart:
        """Return the part of the epoch that is complete. Waits for the device."""
        return EpochPart({name: value.cpu() for name, value in self.sums.items()}, self._seconds())

    def _seconds(self) -> float:
        return time.perf_counter() - self.epoch_start

    def after_train_epoch(self, runner: Runner) -> None:
        steps = len(runner.train_dataloader)
        losses = mean_values({name: float(value) / steps for name, value in self.sums.items()})  # waits for the device
        seconds = self._seconds()
        not_finite = [name for name, value in losses.items() if not math.isfinite(value)]
        if not_finite:
            raise UserError(
                f"{self.title}: {', '.join(not_finite)} of epoch {runner.epoch + 1} is not finite. Lower optimizer.lr, "
                "set optimizer.clip_grad or add schedule.warmup_epochs, in `train` or, for a teacher, in "
                "`teacher.train`"
            )
        on_main(lambda: self._end_epoch(runner, losses, seconds))

    def _end_epoch(self, runner: Runner, losses: Mapping[str, float], seconds: float) -> None:
        row = {
            "epoch": runner.epoch + 1,
            **losses,
            "seconds": seconds,
            "lr": runner.optim_wrapper.get_lr()["lr"][0],
            "images_per_second": len(runner.train_dataloader) * self.batch_size / seconds,
            **runner.model.method.report(runner.model.student),
        }
        self.rows.append(row)
        write_metrics(self.folder, self.rows)
        runner.visualizer.add_scalars({k: v for k, v in row.items() if k != "epoch"}, step=runner.epoch + 1)
        self._show(runner, row)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        on_main(lambda: self._end_validation(runner, metrics or {}))

    def _end_validation(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        self.rows[-1] |= metrics
        write_metrics(self.folder, self.rows)
        runner.visualizer.add_scalars(dict(metrics), step=runner.epoch)
        self._print(runner, "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def after_train(self, runner: Runner) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar from the terminal; also called after an interruption."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _show(self, runner: Runner, row: dict[str, Any]) -> None:
        done, remaining = runner.iter, runner.max_iters - runner.iter
        state = f"loss {row['loss']:.3f}  lr {row['lr']:.1e}  {row['images_per_second']:.0f} images/s"
        if method_state := runner.model.method.progress_line(row):
            state += f"  {method_state}"
        if self.bar:
            self.bar.update(self.task, state=state)
            runner.logger.info(f"epoch {row['epoch']}/{runner.max_epochs}  {state}")
        else:
            eta = (time.perf_counter() - self.train_start) / (done - self.first_step) * remaining
            self._print(runner, f"epoch {row['epoch']}/{runner.max_epochs}  {state}  eta {eta:.0f} s")

    def _print(self, runner: Runner, text: str) -> None:
        runner.logger.info(text)
        self.console.print(f"{self.title}  {text}", highlight=False, soft_wrap=True)
