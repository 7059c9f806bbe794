"""Checkpoints from which training continues to the bit-same result."""

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console

from benchmark.engine.compat import load_checkpoint, save_checkpoint


class CheckpointHook(Hook):
    """Writes `last.pt` after every epoch and continues from it.

    It holds the student's structure and weights, the method's state, optimiser, schedule, position and random state; no
    teacher. It runs after every other hook of the epoch, so that all structural changes are in, and after the epoch's
    validation, so that no scores are lost.
    """

    priority = "LOWEST"

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.resume = resume

    def before_run(self, runner: Runner) -> None:
        # Before `before_train`, where the other hooks look at the position.
        for torso in self.path.parent.glob(f".{self.path.name}.*"):  # of a process that was killed while it wrote
            torso.unlink()
        if not (self.resume and self.path.exists()):
            return
        content = load_checkpoint(self.path, torch.device("cpu"))
        restore(runner.model, content)
        runner.optim_wrapper.optimizer.load_state_dict(content["optimizer"])
        for scheduler, state in zip(runner.param_schedulers, content["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        if content["threads"] != torch.get_num_threads():
            Console(stderr=True).print(
                f"resumed with {torch.get_num_threads()} threads instead of {content['threads']}: the result will "
                "differ in its last digits"
            )
        runner.continue_from(content["epoch"], content["iter"])
        torch.set_rng_state(content["random"])
        device = next(runner.model.parameters()).device
        if device.type == "cuda" and content["cuda_random"] is not None:
            torch.cuda.set_rng_state(content["cuda_random"], device)

    def after_train_epoch(self, runner: Runner) -> None:
        epoch = runner.epoch + 1
        if runner.val_loop is None or (epoch % runner.val_interval and epoch < runner.max_epochs):
            self._save(runner, epoch)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._save(runner, runner.epoch)

    def _save(self, runner: Runner, epoch: int) -> None:
        model = runner.model
        device = next(model.parameters()).device
        save_checkpoint(
            {
                "epoch": epoch,
                "iter": runner.iter,
                "structure": model.method.structure(),
                "student": model.student.state_dict(),
                "method": model.method.state_dict(),
                "optimizer": runner.optim_wrapper.optimizer.state_dict(),
                "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
                "threads": torch.get_num_threads(),
                "random": torch.get_rng_state(),
                "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            },
            self.path,
        )


def restore(model: Any, content: dict[str, Any]) -> None:
    """Bring a freshly prepared distiller to the structure and the weights of a checkpoint, strictly."""
    model.method.restore(model.student, content["structure"])
    model.student.load_state_dict(content["student"], strict=True)
    model.method.load_state_dict(content["method"], strict=True)
