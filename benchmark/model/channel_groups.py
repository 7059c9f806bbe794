"""Channels inside the blocks of any convolutional backbone that can be removed without changing other blocks.

Torch-Pruning finds which layers share channels. A group of layers has inner channels if one convolution computes them
and one reads them, both in one block:

    convolution, [batch norm, activation, depthwise convolution,] batch norm, activation, [gate,] convolution

where a gate, such as squeeze-and-excitation, multiplies the channels by factors that it computes from them.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.errors import UserError
from benchmark.model.backbone import accepted_size, build_backbone

Role = Literal["channels", "inputs", "outputs"]
MOST_LAYERS = 64
"""Maximum number of layers and operations that share inner channels."""


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Layers that share the inner channels of a block, by their names within the backbone."""

    block: str
    """The block: the smallest module that contains both convolutions."""
    conv: str
    """The convolution that computes the channels."""
    norm: str
    """The last batch norm before the convolution that reads them."""
    next_conv: str
    """The convolution that reads the channels."""
    others: tuple[tuple[str, Role], ...]
    """Further layers, in order of execution: batch norms and depthwise convolutions, whose channels they are, and the
    convolutions of gates, whose inputs or outputs they are."""


def channel_groups(architecture: Mapping[str, Any]) -> list[ChannelGroup]:
    """Return the inner channels of all blocks of a backbone, in order of execution.

    Args:
        architecture: `Embedder.architecture`.

    Raises:
        UserError: There is no such backbone, or Torch-Pruning cannot trace it.
    """
    groups = _channel_groups(architecture["backbone"], json.dumps(architecture["args"]))
    if isinstance(groups, str):
        raise UserError(
            f"{architecture['backbone']} has no channels that could be pruned: Torch-Pruning, which finds the layers "
            f"that share channels, cannot trace it ({groups}). Choose another backbone, such as resnet50, "
            "efficientnet_b0 or mobilenetv3_large_100, as teacher.network.backbone."
        )
    return list(groups)


@lru_cache(maxsize=64)
@torch.enable_grad()  # Torch-Pruning follows the graph of autograd
def _channel_groups(name: str, args: str) -> tuple[ChannelGroup, ...] | str:
    """Return the groups, or why Torch-Pruning cannot trace the backbone."""
    from torch_pruning import DependencyGraph

    with torch.device("meta"):
        backbone = build_backbone(name, json.loads(args)).eval()
        example = torch.empty(1, 3, *accepted_size(backbone, json.loads(args)))
    try:
        order = _execution_order(backbone, example)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parameters outside of layers, which no inner channels have
            graph = DependencyGraph().build_dependency(backbone, example, verbose=False)
    except Exception as error:  # of many types, for operations that it does not know
        return f"{type(error).__name__}: {error}"
    convs = [layer for layer in order if isinstance(layer, nn.Conv2d) and not is_depthwise(layer)]
    found = (_inner_channels(backbone, order, conv, _dependent_layers(graph, conv)) for conv in convs)
    return tuple(group for group in found if group is not None)


def _dependent_layers(graph: Any, conv: nn.Conv2d) -> list[tuple[nn.Module, Role]] | None:
    """Return the layers and operations that have the output channels of a convolution, as channels, inputs or outputs.

    None if the channels are concatenated, split or flattened, or if there are many layers, as on the way from block to
    block: Torch-Pruning's own search would take minutes for some networks.
    """
    from torch_pruning import prune_conv_out_channels

    found: dict[tuple[Any, str], Role] = {(graph.module2node[conv], "prune_out_channels"): "outputs"}
    pending: list[tuple[Any, Any]] = [(graph.module2node[conv], prune_conv_out_channels)]
    while pending and len(found) < MOST_LAYERS:
        node, function = pending.pop()
        for dependency in node.dependencies:
            name = dependency.handler.__name__
            if not dependency.is_triggered_by(function) or (dependency.target, name) in found:
                continue
            if any(mapping is not None for mapping in dependency.index_mapping):
                return None
            found[dependency.target, name] = "inputs" if name == "prune_in_channels" else "outputs"
            pending.append((dependency.target, dependency.handler))
    return None if pending else [(node.module, role) for (node, _), role in found.items()]


def _execution_order(backbone: Any, example: Tensor) -> dict[nn.Module, str]:
    """Return the layers in order of execution, with their names."""
    order: dict[nn.Module, str] = {}
    names = {module: name for name, module in backbone.named_modules()}

    def started(module: nn.Module, inputs: Any) -> None:
        order.setdefault(module, names[module])

    handles = [module.register_forward_pre_hook(started) for module in names]
    backbone.forward_features(example)
    for handle in handles:
        handle.remove()
    return order


def _inner_channels(
    backbone: Any, order: Mapping[nn.Module, str], conv: nn.Conv2d, dependent: list[tuple[nn.Module, Role]] | None
) -> ChannelGroup | None:
    """Return the group of layers that share the output channels of a convolution, if they are inner channels.

    Args:
        backbone: The backbone.
        order: The layers in order of execution, with their names.
        conv: The convolution.
        dependent: See `_dependent_layers`.
    """
    if dependent is None:
        return None
    roles: dict[nn.Module, Role] = {}
    for layer, role in dependent:
        if layer not in order:
            continue  # an operation without parameters
        if isinstance(layer, _BatchNorm) or is_depthwise(layer):
            roles[layer] = "channels"
        elif isinstance(layer, nn.Conv2d):
            if (layer.in_channels if role == "inputs" else layer.out_channels) != conv.out_channels:
                return None  # they are a part of its channels
            roles[layer] = role
        else:
            return None  # such as a linear layer
    layers = [layer for layer in order if layer in roles]
    if _is_gate(conv, layers, roles, order):
        return None
    gates = {layer for layer in layers if _is_gate(layer, layers, roles, order)}
    convs = [layer for layer in layers if roles[layer] != "channels" and layer not in gates]
    norms = [layer for layer in layers if isinstance(layer, _BatchNorm)]
    if [roles[layer] for layer in convs] != ["outputs", "inputs"] or convs[0] is not conv or not norms:
        return None
    block = _common_block(order[conv], order[convs[1]])
    if isinstance(backbone.get_submodule(block), nn.Sequential | nn.ModuleList) or not block:
        return None  # between two blocks
    norm = norms[-1]
    others = tuple((order[layer], roles[layer]) for layer in layers if layer not in (conv, convs[1], norm))
    return ChannelGroup(block, order[conv], order[norm], order[convs[1]], others)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of each channel by itself."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def _is_gate(
    conv: nn.Module, layers: Sequence[nn.Module], roles: Mapping[nn.Module, Role], order: Mapping[nn.Module, str]
) -> bool:
    """Whether a convolution is part of a gate: a module that reads the channels first and then outputs as many."""
    parent = order[conv].rpartition(".")[0]
    siblings = [
        roles[layer] for layer in layers if order[layer].rpartition(".")[0] == parent and roles[layer] != "channels"
    ]
    return siblings == ["inputs", "outputs"]


def _common_block(first: str, second: str) -> str:
    """Return the name of the smallest module that contains two layers."""
    pairs = zip(first.split("."), second.split("."), strict=False)
    return ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
