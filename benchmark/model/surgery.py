"""Channel pruning of layers, in place."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True, slots=True)
class ChannelSelection:
    """A parameter that was narrowed in place. The optimizer's state has to be narrowed in the same way."""

    parameter: nn.Parameter
    dim: int
    index: Tensor
    """(kept,) int64: the entries along `dim` that remain."""


def keep_outputs(conv: nn.Conv2d, index: Tensor) -> list[ChannelSelection]:
    """Keep the output channels `index` (int64) of a convolution without groups."""
    changes = [_narrow(conv.weight, 0, index)]
    if conv.bias is not None:
        changes.append(_narrow(conv.bias, 0, index))
    conv.out_channels = len(index)
    return changes


def keep_inputs(conv: nn.Conv2d, index: Tensor) -> list[ChannelSelection]:
    """Keep the input channels `index` (int64) of a convolution without groups."""
    conv.in_channels = len(index)
    return [_narrow(conv.weight, 1, index)]


def keep_depthwise(conv: nn.Conv2d, index: Tensor) -> list[ChannelSelection]:
    """Keep the channels `index` (int64) of a depthwise convolution."""
    changes = keep_outputs(conv, index)
    conv.in_channels = conv.groups = len(index)
    return changes


def keep_channels(norm: _BatchNorm, index: Tensor) -> list[ChannelSelection]:
    """Keep the channels `index` (int64) of a batch norm: scale, shift and running statistics."""
    for name, value in norm.named_buffers(recurse=False):
        if value.dim():  # all but the scalar counter of batches
            setattr(norm, name, select(value, 0, index))
    norm.num_features = len(index)
    return [_narrow(parameter, 0, index) for parameter in norm.parameters(recurse=False)]


def prune_optimizer_state(optimizer: torch.optim.Optimizer, changes: list[ChannelSelection]) -> None:
    """Narrow the state of an optimizer, such as momentum, in the same way as its parameters were narrowed."""
    for change in changes:
        state = optimizer.state.get(change.parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() == change.parameter.dim():
                state[name] = select(value, change.dim, change.index)


def _narrow(parameter: Tensor, dim: int, index: Tensor) -> ChannelSelection:
    assert isinstance(parameter, nn.Parameter)
    # The Parameter object stays the same, because optimizers, schedulers and weight averages refer to it.
    parameter.grad = None
    parameter.data = select(parameter.data, dim, index)
    return ChannelSelection(parameter, dim, index)


def select(value: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the entries `index` of a tensor along a dimension, and keep the channels-last memory format."""
    selected = value.index_select(dim, index.to(value.device))
    channels_last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return selected.contiguous(memory_format=torch.channels_last) if channels_last else selected
