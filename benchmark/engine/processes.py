"""What the processes that share a training do together at the end of an epoch."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from benchmark.engine.average import STATISTICS, WeightAverage
from benchmark.engine.distiller import Distiller
from benchmark.errors import UserError
from benchmark.utils.distributed import average_, from_all, processes


def average_statistics(model: nn.Module, average: WeightAverage | None) -> None:
    """Replace the running statistics of batch norms, which each process has for its own images, by their means.

    Args:
        model: The trained networks.
        average: The average of the student's weights, which has statistics, too; None if there is none.
    """
    networks = running_statistics(model, None)
    average_(networks)
    average_(running_statistics(model, average)[len(networks) :])


def running_statistics(model: nn.Module, average: WeightAverage | None) -> list[Tensor]:
    """Return the running statistics of batch norms, in which processes differ within an epoch.

    Args:
        model: The trained networks.
        average: The average of the student's weights, whose statistics follow; None if there is none.
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    found = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
    if average is not None:
        found += [value for name, value in average.values.items() if name.endswith(STATISTICS)]
    return found


def mean_values(values: Mapping[str, float]) -> dict[str, float]:
    """Return the means over the processes of values that all of them have."""
    if processes() == 1:
        return dict(values)
    means = torch.tensor(list(values.values()), dtype=torch.float64)
    average_([means])
    return dict(zip(values, means.tolist(), strict=True))


def require_equal(model: Distiller, epoch: int) -> None:
    """Check that all processes have the same student, and the same trainable parts of method and task loss.

    Args:
        model: The trained networks.
        epoch: The epoch that has ended, counted from 1.

    Raises:
        UserError: They differ, for example because the method has used a random number or a measured time; raised on
            every process.
    """
    if processes() == 1:
        return
    hashes = from_all(_hash(model))
    if len(set(hashes)) > 1:
        odd = next(rank for rank, each in enumerate(hashes) if each != hashes[0])
        raise UserError(
            f"after epoch {epoch}, the networks of process {odd} and of the main process differ: the devices do not "
            "compute the same, or the method is not a function of the batch and the seed; use a single process"
        )


def _hash(model: Distiller) -> str:
    content = hashlib.sha256(repr(model.method.structure()).encode())
    for name, value in (*model.student.state_dict().items(), *model.named_parameters()):
        content.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()
