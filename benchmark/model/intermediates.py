"""Stages of backbones whose modules do not return (B, C, H, W) feature maps, such as ViT and Swin.

timm's `forward_intermediates` returns them as maps: without class, register and distillation tokens, and with the
channels in the second dimension. It runs the network once, with the same result as `forward_features`.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.backbone import accepted_size

STAGES = 4
"""Number of stages of a backbone that can be read."""


def needs_intermediates(backbone: Any, args: Mapping[str, Any]) -> bool:
    """Whether the stages of a backbone are feature maps only in timm's `forward_intermediates`.

    The modules of the stages are tried with shapes and without values. False if they cannot be tried.

    Args:
        backbone: A backbone of timm, or a plugin, which has no `forward_intermediates`.
        args: Arguments with which it was built.
    """
    if not hasattr(backbone, "forward_intermediates"):
        return False
    shapes: Any = meta_copy(backbone).eval()
    modules = dict(shapes.named_modules())
    outputs: dict[str, Any] = {}
    levels = list(backbone.feature_info)[-STAGES:]
    for path in (level["module"] for level in levels):
        if path not in modules:
            return True
        modules[path].register_forward_hook(lambda _, __, output, path=path: outputs.update({path: output}))
    try:
        with torch.no_grad():
            shapes.forward_features(torch.empty(1, 3, *accepted_size(backbone, args), device="meta"))
    except Exception:  # timm raises many types
        return False
    return not all(_is_map(outputs.get(level["module"]), level["num_chs"]) for level in levels)


def stage_levels(backbone: Any) -> list[int]:
    """Return the positions of the stages in timm's `feature_info`, which are those in `forward_intermediates`.

    They are the last four. A plain transformer states each of its blocks as a level of the same resolution; its stages
    are the ends of four parts with equal numbers of blocks.
    """
    levels = list(backbone.feature_info)
    count = len(levels)
    if count > STAGES and len({level.get("reduction") for level in levels}) == 1:
        return [count * stage // STAGES - 1 for stage in range(1, STAGES + 1)]
    return list(range(count))[-STAGES:]


def check_intermediates(backbone_name: str, args: Mapping[str, Any]) -> None:
    """Check that the tokens of a backbone form a map in training, too.

    Raises:
        UserError: They do not.
    """
    if args.get("patch_drop_rate"):
        raise UserError(
            f"{backbone_name} with args.patch_drop_rate = {args['patch_drop_rate']} leaves out patches in training, so "
            "that its tokens do not form feature maps: remove this argument"
        )


def meta_copy(network: nn.Module) -> nn.Module:
    """Return a copy of a network on the `meta` device, whatever its size, without copying its values."""
    # Parameters, buffers and, as those of LeViT, caches of tensors that have gradients and cannot be copied.
    tables = [table for module in network.modules() for table in vars(module).values() if isinstance(table, dict)]
    memo: dict[int, Any] = {}
    for tensor in (value for table in tables for value in table.values() if isinstance(value, Tensor)):
        shape = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(shape, False) if isinstance(tensor, nn.Parameter) else shape
    return copy.deepcopy(network, memo)


def _is_map(output: Any, channels: int) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] == channels
