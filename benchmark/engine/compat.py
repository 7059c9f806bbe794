"""Workarounds for mmengine 0.10.7 on current torch.

For each workaround, `tests/engine/test_compat.py` shows what happens without it, and fails once it is no longer needed.
"""

import logging
import math
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.utils.atomic import atomic_path
from benchmark.utils.distributed import average_

CPU = torch.device("cpu")
# mmengine's schedulers count the optimizer's steps, of which a scaler may skip the first ones.
warnings.filterwarnings("ignore", r"Detected call of `scheduler.step\(\)` before", UserWarning)


class InitializedModel(BaseModel):
    """A model that already has its initial weights.

    `Runner.train()` calls `init_weights`, which descends into timm's networks and overwrites pretrained weights.
    """

    def init_weights(self) -> None:
        """Keep the weights."""


class DistillOptimWrapper(OptimWrapper):
    """An optimizer with autocast on any device, and a callback between backward pass and step.

    mmengine's `AmpOptimWrapper` refuses CPUs, and leaves the gradients scaled until they are clipped. Here, they are
    complete before the callback, and averaged if several processes share the batch.

    float16 has a small range, so the loss is multiplied by a scale that is as large as the gradients allow. If a
    gradient exceeds the range, the scale is halved and the optimizer skips the step. The callback is then called with
    gradients of zero, because methods count the steps.

    Args:
        before_step: Called once the gradients are complete, before they are clipped.
        device: Device of the training.
        autocast: bfloat16, float16, or float32 for no autocast.
    """

    def __init__(
        self,
        *args: Any,
        before_step: Callable[[], None],
        device: torch.device = CPU,
        autocast: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.before_step = before_step
        self.device = device
        self.autocast = autocast
        self.scaler = torch.amp.GradScaler(device.type, enabled=autocast == torch.float16)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        enabled = self.autocast != torch.float32
        dtype = self.autocast if enabled else torch.bfloat16  # torch refuses float32 even if autocast is disabled
        with super().optim_context(model), torch.autocast(self.device.type, dtype, enabled=enabled):
            yield

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        average_(self._gradients())
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
            self._clear_overflow()
        self.before_step()
        if self.clip_grad_kwargs:
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    def _gradients(self) -> list[Tensor]:
        groups = self.optimizer.param_groups
        return [each.grad for group in groups for each in group["params"] if each.grad is not None]

    def _clear_overflow(self) -> None:
        """Set all gradients to zero if one of them is not finite. Waits for the device, as the scaler does anyway."""
        gradients = self._gradients()
        if not torch.nn.utils.get_total_norm(gradients, math.inf).isfinite():
            torch._foreach_zero_(gradients)


class TrainLoop(EpochBasedTrainLoop):
    """A loop over epochs that can begin within an epoch, of which mmengine would repeat the first batches."""

    @property
    def done(self) -> int:
        """Number of steps of the current epoch that are complete."""
        return self._iter - self._epoch * len(self.dataloader)

    def run_epoch(self) -> None:
        """Make the remaining steps of an epoch. The sampler leaves out the batches of the others."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=self.done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


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
        """Start the training after `epoch` epochs and `iteration` steps, those of the epochs included.

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


def load_checkpoint(path: Path, device: torch.device, *, lazily: bool = False) -> Any:
    """Read a file written by `save_checkpoint`, without executing code in it.

    Args:
        path: The file.
        device: Where its tensors are loaded.
        lazily: Read the values of tensors when they are used, and do not compare the checksums.

    Raises:
        UserError: The file cannot be read or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = None if lazily else archive.testzip()  # torch.load does not compare the checksums
        if damaged is None:
            return torch.load(path, map_location=device, weights_only=True, mmap=lazily)
        reason, cause = "its checksum is wrong", None
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # both raise many types for a damaged file
        reason, cause = "it is damaged or was not written by a training", error
    raise UserError(f"checkpoint {path} cannot be read, {reason}: delete it to start the training again") from cause
