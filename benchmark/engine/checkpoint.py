"""The checkpoint of a training: what it contains, and whether it belongs to the training that continues from it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import Tensor

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.engine.average import WeightAverage
from benchmark.engine.best_epoch import is_state
from benchmark.engine.compat import DistillOptimWrapper, load_checkpoint
from benchmark.engine.distiller import Distiller
from benchmark.errors import UserError
from benchmark.recipe import Component, Evaluate, Recipe

FORMAT: Final = 2
"""Version of the content. Format 1 has no checkpoints within an epoch."""
_READ: Final = (1, FORMAT)
"""The formats that can be read."""
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "format": int,
    "recipe": str,
    "epoch": int,
    "iter": int,
    "begun": list,
    "structure": dict,
    "student": dict,
    "method": dict,
    "task": dict,
    "average": (dict, type(None)),
    "optimizer": dict,
    "schedulers": list,
    "threads": int,
    "processes": int,
    "random": Tensor,
    "cuda_random": (Tensor, type(None)),
    "best": (dict, type(None)),
    "scaler": dict,
}
"""Type of each value."""


def training_hash(recipe: Recipe, dataset: type[RetrievalDataset]) -> str:
    """Return the hash of all settings of a recipe that can change the training, without those of its evaluation."""
    arguments = recipe.dataset.arguments
    trained = {name: value for name, value in arguments.items() if name not in dataset.evaluation_options}
    component = Component(name=recipe.dataset.name, **trained)
    chosen = {"every", "epoch"} if recipe.evaluate.epoch == "best" else set()
    evaluate = Evaluate(**recipe.evaluate.model_dump(include=chosen))
    return recipe.model_copy(update={"dataset": component, "evaluate": evaluate}).hash


def read_checkpoint(path: Path, training: str, epochs: int, *, lazily: bool = False) -> dict[str, Any]:
    """Read the checkpoint of a training, without executing code in it, and check that it can be continued.

    Args:
        path: The checkpoint.
        training: The training's `training_hash`.
        epochs: Number of epochs of the training.
        lazily: Read the values of tensors when they are used, and do not compare the checksums of the file.

    Returns:
        The content, with all tensors on the CPU.

    Raises:
        UserError: The file is damaged, is not a checkpoint, or belongs to another training.
    """
    if path.exists() and not path.is_file():  # a named pipe would be waited for
        raise refused(path, "is not a regular file")
    content = load_checkpoint(path, torch.device("cpu"), lazily=lazily)
    # Keys that checkpoints of earlier versions lack.
    missing: dict[str, Any] = {
        "format": FORMAT,
        "recipe": training,
        "begun": [],
        "processes": 1,
        "best": None,
        "scaler": {},
        "task": {},
        "average": None,
    }
    if not isinstance(content, dict) or not _TYPES.keys() <= content.keys() | missing.keys():
        raise refused(path, "is not the checkpoint of a training")
    content = missing | content
    for key, types in _TYPES.items():
        if not isinstance(content[key], types) or isinstance(content[key], bool):
            raise refused(path, f"has an invalid value of {key!r}")
        if key == "format" and content[key] not in _READ:  # before other values, which may have changed with it
            raise refused(path, f"has format {content[key]}, and this version reads format {FORMAT} and earlier ones")
    if content["recipe"] != training:
        raise refused(path, "belongs to the training of another recipe")
    if not 0 <= content["epoch"] <= epochs - bool(content["begun"]) or not (content["epoch"] or content["begun"]):
        raise refused(path, f"is of epoch {content['epoch']}, but the training has {epochs} epochs")
    if content["iter"] < max(content["epoch"], 1) or min(content["threads"], content["processes"]) < 1:
        raise refused(path, "has impossible counts of steps, threads or processes")
    if not is_state(content["best"], content["epoch"]):
        raise refused(path, "has an invalid value of 'best'")
    if content["begun"] and not (
        len(content["begun"]) == content["processes"] and all(map(_is_begun, content["begun"]))
    ):
        raise refused(path, "has an invalid value of 'begun'")
    return content


def require_position(path: Path, content: Mapping[str, Any], steps: int) -> None:
    """Check that the step of a checkpoint is in its epoch.

    Args:
        path: The checkpoint, for messages.
        content: The content of the checkpoint.
        steps: Number of steps of an epoch.

    Raises:
        UserError: It is not.
    """
    done = content["iter"] - content["epoch"] * steps
    if not (0 < done < steps if content["begun"] else done == 0):
        raise refused(
            path, f"is of epoch {content['epoch']} and step {content['iter']}, but an epoch has {steps} steps"
        )


def load_model_state(path: Path, model: Distiller, content: Mapping[str, Any]) -> None:
    """Load the structure and the weights of a checkpoint into a prepared distiller.

    Args:
        path: The checkpoint, for messages.
        model: A distiller whose method has been prepared and has not changed the student yet.
        content: The content of the checkpoint.

    Raises:
        UserError: The content does not fit.
    """
    with _fitting(path):
        model.method.restore(model.student, content["structure"])
        model.student.load_state_dict(content["student"], strict=True)
        model.method.load_state_dict(content["method"], strict=True)
        model.task.load_state_dict(content["task"], strict=True)
    if any(not _is_finite(value) for value in model.student.state_dict().values()):
        raise refused(path, "has weights that are NaN or infinite")


def load_average(path: Path, average: WeightAverage, content: Mapping[str, Any]) -> None:
    """Load the average of the weights, after the structure of the student.

    Raises:
        UserError: The content does not fit.
    """
    with _fitting(path):
        average.load(content["average"])


def load_statistics(path: Path, statistics: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    """Load the running statistics that one of several processes has within an epoch.

    Args:
        path: The checkpoint, for messages.
        statistics: The `running_statistics` to overwrite.
        saved: Those of the process in the content's `begun`.

    Raises:
        UserError: The values do not fit.
    """
    with _fitting(path), torch.no_grad():
        for value, own in zip(statistics, saved, strict=True):
            value.copy_(own)


def load_optimization_state(
    path: Path, wrapper: DistillOptimWrapper, schedulers: list[_ParamScheduler], content: Mapping[str, Any]
) -> None:
    """Load the states of the optimizer, of the scale of its losses, and of the schedules.

    Raises:
        UserError: The content does not fit.
    """
    optimizer = wrapper.optimizer
    with _fitting(path):
        optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:  # of a training in float16; `auto` may choose another precision on another machine
            wrapper.scaler.load_state_dict(content["scaler"])
        for scheduler, state in zip(schedulers, content["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        for parameter, state in optimizer.state.items():
            shapes = {value.shape for value in state.values() if isinstance(value, Tensor) and value.dim()}
            if shapes - {parameter.shape}:
                raise ValueError("a state of the optimizer has another shape than its parameter")


def load_random_state(path: Path, device: torch.device, content: Mapping[str, Any]) -> None:
    """Set the random state of the process, and of a CUDA device if the checkpoint has it.

    Raises:
        UserError: The content is not a random state.
    """
    with _fitting(path):
        torch.set_rng_state(content["random"])
        if device.type == "cuda" and content["cuda_random"] is not None:
            torch.cuda.set_rng_state(content["cuda_random"], device)


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Convert any error about a value of the checkpoint to a UserError."""
    try:
        yield
    except Exception as error:  # torch, mmengine and methods raise many types for values of another network
        raise refused(path, "does not fit the networks of this run") from error


def _is_begun(value: Any) -> bool:
    """Whether a value is the part of one process in the content's `begun`."""
    return (
        isinstance(value, dict)
        and value.keys() == {"statistics", "sums", "seconds"}
        and isinstance(value["statistics"], list)
        and isinstance(value["sums"], dict)
        and all(isinstance(each, Tensor) for each in (*value["statistics"], *value["sums"].values()))
        and all(isinstance(name, str) for name in value["sums"])
        and all(each.dim() == 0 for each in value["sums"].values())
        and type(value["seconds"]) is float
        and 0 <= value["seconds"] < math.inf
    )


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or math.isfinite(float(value.sum()))


def refused(path: Path, reason: str) -> UserError:
    """Return the error about a checkpoint from which a training cannot continue."""
    return UserError(
        f"checkpoint {path} {reason}: restore the file of this run, or delete it to start the training again"
    )
