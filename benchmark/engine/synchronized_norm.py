"""Batch norm with the statistics of the whole batch, which several processes share."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmark.utils.distributed import average_, processes
from benchmark.utils.precision import upcast


class SynchronizedStatistics(TorchFunctionMode):
    """A context in which batch norms that use batch statistics use those of all processes.

    Every process has to call the same batch norms in the same order, with parts of the batch of the same size. The
    modules stay what they are, so that pruning, folding and checkpoints need to know nothing of it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm and processes() > 1:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize as `torch.nn.functional.batch_norm` does, which has these arguments."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    outputs: tuple[Tensor, Tensor, Tensor] = _Normalized.apply(input, weight, bias, eps)
    normalized, mean, variance = outputs
    if running_mean is not None and running_var is not None:
        values = processes() * input.numel() // input.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(variance.to(running_var.dtype) * values / (values - 1), momentum)
    return normalized


class _Normalized(torch.autograd.Function):
    """Maps (B, C, ...) to normalized values, and the mean and biased variance of each channel, (C,).

    With the normalized values n before scale w and shift, the gradient of the input is

        w / sqrt(var + eps) * (g - mean(g) - n * mean(g * n))

    where g is the gradient of the output, and the means are over all images of all processes and over all pixels.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = upcast(input)
        mean = x.mean(_all_but_channels(x))
        average_([mean])
        variance = (x - _per_channel(mean, x)).square().mean(_all_but_channels(x))
        average_([variance])
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(input, weight, mean, scale)
        ctx.mark_non_differentiable(mean, variance)
        # The same as in the backward pass, and in evaluation: the operator normalizes by given statistics.
        return F.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        input, weight, mean, scale = ctx.saved_tensors
        x, gradient = upcast(input), upcast(gradients[0])
        normalized = (x - _per_channel(mean, x)) * _per_channel(scale, x)
        dims = _all_but_channels(x)
        of_shift, of_scale = gradient.sum(dims), (gradient * normalized).sum(dims)
        means = [each * x.shape[1] / x.numel() for each in (of_shift, of_scale)]
        average_(means)
        factor = scale if weight is None else scale * weight
        own = gradient - _per_channel(means[0], x) - normalized * _per_channel(means[1], x)
        of_input = (own * _per_channel(factor, x)).to(input.dtype)
        return (of_input, None, None, None) if weight is None else (of_input, of_scale, of_shift, None)


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Reshape (C,) so that it broadcasts with (B, C, ...)."""
    return values.view([1, -1] + [1] * (x.dim() - 2))
