"""Workarounds for mmengine 0.10.7 on current torch.

For each workaround, `tests/engine/test_compat.py` shows what happens without it, and fails once it is no longer needed.
"""

import logging
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


class InitializedModel(BaseModel):
    """A model that already has its initial weights.

    `Runner.train()` calls `init_weights`, which descends into timm's networks and overwrites pretrained weights.
    """

    def init_weights(self) -> None:
        """Keep the weights."""


class DistillOptimWrapper(OptimWrapper):
    """An optimizer with bfloat16 autocast on any device, and a callback between backward pass and step.

    mmengine's `AmpOptimWrapper` refuses CPUs. bfloat16 has the exponent range of float32, so the loss is not
    scaled.

    Args:
        before_step: Called once the gradients are complete, before they are clipped.
        autocast: Device type to autocast on; None for float32.
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
    """A Runner that keeps the model on its device, and writes only `log.txt` to its folder.

    mmengine's Runner moves the model to the first accelerator, whatever device was requested. At every start, it
    creates a folder with a second log and a dump of its empty config. It keeps loggers, with their log file, by name,
    so every run gets a unique name.
    """

    def __init__(self, *args: Any, experiment_name: str, **kwargs: Any) -> None:
        super().__init__(*args, experiment_name=f"{experiment_name}-{time.time_ns()}", **kwargs)
        for log_folder in Path(self.work_dir).glob("[0-9]*_[0-9]*"):  # of this start, and of starts that were killed
            with suppress(OSError):  # not empty
                log_folder.rmdir()

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(log_level, log_file or str(Path(self.work_dir) / "log.txt"), **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk stops the run at its next checkpoint
            else:
                handler.setLevel(logging.CRITICAL)  # the console is for the progress bar
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        return model

    def dump_config(self) -> None:
        """Write nothing; the recipe is saved instead."""

    def _log_env(self, env_cfg: dict) -> None:
        """Log nothing; the record states the environment."""
        # mmengine imports distutils, which Python 3.12 and later do not have, and runs `gcc --version`, which prints an
        # error if there is no compiler.

    def continue_from(self, epoch: int, iteration: int) -> None:
        """Start the training after `epoch` epochs and `iteration` steps.

        mmengine has no way to set the position except by loading a checkpoint in its own format.
        """
        self.train_loop._epoch, self.train_loop._iter = epoch, iteration


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values to a file, atomically.

    mmengine's own checkpoint contains its message hub, which `torch.load` does not read with `weights_only=True`, and
    mmengine deletes the previous file before it writes the next one.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch hides the OSError, which states the reason
        if not isinstance(error.__context__, OSError):
            raise
        raise UserError(f"checkpoint {path} cannot be written: {error.__context__.strerror}") from error
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be written: {error.strerror}") from error


def load_checkpoint(path: Path, device: torch.device) -> Any:
    """Read a file written by `save_checkpoint`, without executing code in it.

    Raises:
        UserError: The file cannot be read or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not compare the checksums
        if damaged is None:
            return torch.load(path, map_location=device, weights_only=True)
        reason, cause = "its checksum is wrong", None
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # both raise many types for a damaged file
        reason, cause = "it is damaged or was not written by a training", error
    raise UserError(f"checkpoint {path} cannot be read, {reason}: delete it to start the training again") from cause
