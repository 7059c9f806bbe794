"""What mmengine 0.10.7 needs on current torch, all in one place.

`tests/engine/test_compat.py` shows for every guard what happens without it, and fails once mmengine no longer needs it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from benchmark.errors import UserError
from benchmark.utils.atomic import atomic_path


class InitialisedModel(BaseModel):
    """A model whose weights are already as they should be.

    `Runner.train()` calls `init_weights`, which descends into timm's networks and overwrites pretrained weights.
    """

    def init_weights(self) -> None:
        """Leave the weights alone."""


class DistillOptimWrapper(OptimWrapper):
    """Autocast to bfloat16 on any device, and a call between backward and step.

    `AmpOptimWrapper` asserts that the device is not a CPU. bfloat16 has float32's range and needs no loss scaling.

    Args:
        before_step: Called after the gradients are complete and before they are clipped.
        autocast: The device type to autocast on; None for float32.
    """

    def __init__(self, *args: Any, before_step: Callable[[], None], autocast: str | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before_step = before_step
        self.autocast = autocast

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        enabled = self.autocast is not None
        with super().optim_context(model), torch.autocast(self.autocast or "cpu", torch.bfloat16, enabled=enabled):
            yield

    def step(self, **kwargs: Any) -> None:
        self.before_step()
        super().step(**kwargs)


class QuietRunner(Runner):
    """A Runner that leaves the model on its device and writes nothing but `log.txt` into its folder.

    mmengine moves every model to the first accelerator it finds, whatever device was asked for, and makes a folder with
    a second log and a dump of its empty config for every start. Its loggers are kept by name, with the file they first
    had, so that every run needs a name of its own.
    """

    def __init__(self, *args: Any, experiment_name: str, **kwargs: Any) -> None:
        super().__init__(*args, experiment_name=f"{experiment_name}-{time.time_ns()}", **kwargs)
        leftover = Path(self._log_dir)
        if not any(leftover.iterdir()):
            leftover.rmdir()

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(log_level, log_file or str(Path(self.work_dir) / "log.txt"), **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)  # the console belongs to the progress bar
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        return model

    def dump_config(self) -> None:
        """The recipe is saved instead."""

    def _log_env(self, env_cfg: dict) -> None:
        """Log nothing; the record states the environment."""
        # mmengine would import distutils, which Python 3.12 and later do not have, and run `gcc --version`, whose
        # failure is printed on the console of a machine without a compiler.

    def continue_from(self, epoch: int, iteration: int) -> None:
        """Let training begin after so many epochs and steps, which mmengine does only for checkpoints of its own."""
        self.train_loop._epoch, self.train_loop._iter = epoch, iteration


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, atomically.

    mmengine's own checkpoint holds its message hub, which `torch.load` refuses to read with `weights_only=True`, and it
    deletes the old file before the new one is written.

    Raises:
        UserError: The disk does not take it.
    """
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch's own, in which the reason is lost
        if not isinstance(error.__context__, OSError):
            raise
        raise UserError(f"checkpoint {path} cannot be written: {error.__context__.strerror}") from error
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be written: {error.strerror}") from error


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; runs no code that the file may hold.

    Raises:
        UserError: The file is damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise UserError(f"checkpoint {path} cannot be read ({error}): delete it to start this training anew") from error
