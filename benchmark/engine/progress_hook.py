"""What a person sees during training, and what is kept of it."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmark.atomic import write_text
from benchmark.errors import UserError

METRICS = "metrics.jsonl"
READ_EVERY = 50
"""Steps between two looks at the losses on a terminal; each look waits for the device."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, one per epoch; none where it has not begun."""
    file = folder / METRICS
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


class ProgressHook(Hook):
    """A bar with losses, learning rate, speed and ETA on a terminal, else a line per epoch; a row per epoch on disk.

    `metrics.jsonl` holds one JSON object per epoch: mean losses, learning rate, images per second, what the method
    reports and validation scores. Losses are added up on the device and read once an epoch, so that no step waits for
    them.

    Raises:
        UserError: The mean loss of an epoch is not finite.
    """

    priority = "LOW"

    def __init__(self, title: str, folder: Path, batch_size: int) -> None:
        self.title = title
        self.file = folder / METRICS
        self.batch_size = batch_size
        self.console = Console(stderr=True)
        self.rows: list[dict[str, Any]] = []
        self.sums: dict[str, torch.Tensor] = {}
        self.bar: Progress | None = None

    def before_train(self, runner: Runner) -> None:
        """Forget epochs that a resumed run will do again."""
        self.rows = [row for row in read_metrics(self.file.parent) if row["epoch"] <= runner.epoch]
        start = runner.model.method.report(runner.model.student)
        if start and not self.rows:  # what the method's figures begin with
            self.rows.append({"epoch": 0, **start})
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, refresh_per_second=2, expand=True)
            self.bar.start()
            self.line = self.bar.add_task(self.title, total=runner.max_iters, completed=runner.iter, state="")
        self.begin, self.first = time.perf_counter(), runner.iter

    def before_train_epoch(self, runner: Runner) -> None:
        self.sums = {}
        self.start = time.perf_counter()
        if self.bar:
            self.bar.update(self.line, description=f"{self.title} {runner.epoch + 1}/{runner.max_epochs}", refresh=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, torch.Tensor] | None = None
    ) -> None:
        for name, value in (outputs or {}).items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
        if self.bar:
            self.bar.advance(self.line)
            if (batch_idx + 1) % READ_EVERY == 0:
                losses = "  ".join(f"{name} {float(total) / (batch_idx + 1):.3f}" for name, total in self.sums.items())
                speed = (batch_idx + 1) * self.batch_size / (time.perf_counter() - self.start)
                rate = runner.optim_wrapper.get_lr()["lr"][0]
                self.bar.update(self.line, state=f"{losses.replace('loss_', '')}  lr {rate:.1e}  {speed:.0f} images/s")

    def after_train_epoch(self, runner: Runner) -> None:
        steps = len(runner.train_dataloader)
        losses = {name: float(value) / steps for name, value in self.sums.items()}
        seconds = time.perf_counter() - self.start  # after the device was waited for
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"{self.title}: {', '.join(broken)} of epoch {runner.epoch + 1} is not finite. Lower optimizer.lr, set "
                "optimizer.clip_grad or add schedule.warmup_epochs: in `train`, or in `teacher.train` for a teacher"
            )
        row = {
            "epoch": runner.epoch + 1,
            **losses,
            "seconds": seconds,
            "lr": runner.optim_wrapper.get_lr()["lr"][0],
            "images_per_second": steps * self.batch_size / seconds,
            **runner.model.method.report(runner.model.student),
        }
        self.rows.append(row)
        self._write()
        runner.visualizer.add_scalars({k: v for k, v in row.items() if k != "epoch"}, step=runner.epoch + 1)
        self._show(runner, row)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.rows[-1] |= metrics or {}
        self._write()
        runner.visualizer.add_scalars(metrics or {}, step=runner.epoch)
        self._print(runner, "  ".join(f"{name} {value:.4f}" for name, value in (metrics or {}).items()))

    def after_train(self, runner: Runner) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar off the terminal, also after an interruption."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _show(self, runner: Runner, row: dict[str, Any]) -> None:
        done, left = runner.iter, runner.max_iters - runner.iter
        state = f"loss {row['loss']:.3f}  lr {row['lr']:.1e}  {row['images_per_second']:.0f} images/s"
        if "channels" in row:
            state += f"  channels {row['channels']:.0f}  {row['parameters'] / 1e6:.2f} M parameters"
            state += f"  {row['macs'] / 1e6:.1f} M MACs"
        if self.bar:
            self.bar.update(self.line, state=state)
            runner.logger.info(f"epoch {row['epoch']}/{runner.max_epochs}  {state}")
        else:
            eta = (time.perf_counter() - self.begin) / (done - self.first) * left
            self._print(runner, f"epoch {row['epoch']}/{runner.max_epochs}  {state}  eta {eta:.0f} s")

    def _print(self, runner: Runner, text: str) -> None:
        runner.logger.info(text)
        self.console.print(f"{self.title}  {text}", highlight=False, soft_wrap=True)

    def _write(self) -> None:
        write_text(self.file, "".join(json.dumps(row) + "\n" for row in self.rows))
