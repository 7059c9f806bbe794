"""Folding batch norms into the layers before them."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from benchmark.utils.precision import full_precision

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def fold_batchnorm(network: Network, example: Tensor) -> Network:
    """Return a copy in eval mode without the batch norms that directly follow a convolution or linear layer.

    Each of them is folded into that layer and replaced by `nn.Identity`, or by its activation if it has one. If the
    folded copy does not reproduce the output of the network on `example`, because the output of a folded layer is also
    read elsewhere, nothing is folded. On the `meta` device, which has no values to compare, all of them are folded.

    Args:
        network: Any network; it is not changed.
        example: An input of the network. A forward pass shows which batch norm follows which layer.
    """
    from timm.layers import BatchNormAct2d

    plain = copy.deepcopy(network).eval()
    folded = copy.deepcopy(plain)
    names = {module: name for name, module in folded.named_modules()}
    for norm, layer in _foldable_pairs(folded, example):
        fused = fuse_linear_bn_eval(layer, norm) if isinstance(layer, nn.Linear) else fuse_conv_bn_eval(layer, norm)
        folded.set_submodule(names[layer], fused)
        folded.set_submodule(names[norm], norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
    if example.is_meta:
        return folded
    with full_precision(example.device):
        before, after = plain(example), folded(example)
    return folded if torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())) else plain


def _foldable_pairs(network: nn.Module, example: Tensor) -> list[tuple[_BatchNorm, nn.Conv2d | nn.Linear]]:
    """Return pairs (batch norm, layer whose output it normalizes) in order of execution."""
    from timm.layers import BatchNormAct2d, Conv2dSame

    producers: dict[int, Any] = {}
    outputs: list[Tensor] = []  # kept alive, so that no id is used twice
    pairs: list[tuple[Any, Any]] = []

    def record_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)
        producers[id(output)] = module

    def record_pair(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in producers:
            pairs.append((module, producers[id(inputs[0])]))

    handles = []
    for module in network.modules():
        # Exact types, because a subclass may do more, such as standardize its weights.
        if type(module) in (nn.Conv2d, Conv2dSame, nn.Linear):
            handles.append(module.register_forward_hook(record_output))
        elif type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) or (
            type(module) is BatchNormAct2d and isinstance(module.drop, nn.Identity)
        ):
            handles.append(module.register_forward_pre_hook(record_pair))
    network(example)
    for handle in handles:
        handle.remove()
    return pairs
