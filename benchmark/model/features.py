"""Outputs of a network: what methods read, and how feature maps are taken from the stages of a backbone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from benchmark.errors import UserError, nearest
from benchmark.utils.distributed import gathered
from benchmark.utils.precision import upcast

if TYPE_CHECKING:
    from benchmark.model.embedder import Embedder


@dataclass(frozen=True, slots=True)
class Features:
    """The outputs of one forward pass of the teacher or the student."""

    pooled: Tensor
    """(B, C): globally pooled output of the backbone."""
    embedding: Tensor
    """(B, D): output of the neck, which is compared at test time. Not normalized."""
    logits: Tensor
    """(B, identities): output of the classifier head, used in training only; (B, 0) if the network has no head."""
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    """Feature maps by the stage or module name with which they were requested."""

    def upcast(self) -> "Features":
        """Return the outputs in float32 or float64. Feature maps are converted when they are read, to save memory."""
        pooled, embedding, logits = map(upcast, (self.pooled, self.embedding, self.logits))
        return Features(pooled, embedding, logits, _Upcast(self.taps))

    def of_all_processes(self, maps: bool) -> "Features":
        """Return the outputs for the images of all processes.

        Args:
            maps: Whether to gather feature maps, too; otherwise, they remain those of this process.
        """
        pooled, embedding, logits = map(gathered, (self.pooled, self.embedding, self.logits))
        taps = {name: gathered(each) for name, each in self.taps.items()} if maps else self.taps
        return Features(pooled, embedding, logits, taps)


class _Upcast(Mapping[str, Tensor]):
    """Tensors by name that are in float32 or float64 when they are read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return upcast(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _ascending(stages: tuple[int, ...]) -> tuple[int, ...]:
    if any(first >= second for first, second in pairwise(stages)):
        raise ValueError("each stage once, the shallowest first")
    return stages


Stages = Annotated[tuple[Annotated[int, Field(ge=1, le=4)], ...], Field(min_length=1), AfterValidator(_ascending)]
"""Type of a method's argument that selects stages: numbers from 1 to 4 in ascending order, at least one."""


def stage_channels(network: "Embedder", stages: Sequence[int]) -> list[int]:
    """Return the number of channels of the feature maps at the end of stages.

    Args:
        network: Teacher or student.
        stages: Stage numbers, counted from 1. The stages of a backbone are the last four levels of timm's
            `feature_info`.

    Raises:
        UserError: The backbone has no such stage.
    """
    levels: list[dict[str, int]] = list(network.backbone.feature_info)[-4:]
    if stages and not levels:
        raise UserError(
            f"{network.architecture['backbone']} states no stages: choose a method that reads embeddings only"
        )
    for stage in stages:
        if not 1 <= stage <= len(levels):
            backbone = network.architecture["backbone"]
            raise UserError(f"{backbone} has no stage {stage}: its stages are 1 to {len(levels)}")
    return [levels[stage - 1]["num_chs"] for stage in stages]


class FeatureTaps:
    """Forward hooks that keep the feature maps of selected stages and modules of a backbone."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[nn.Module, nn.Module | None]] = {}
        """Tap name -> the module, and for a tap before an activation the activation."""

    def add(self, backbone: Any, names: Sequence[str], backbone_name: str) -> None:
        """Register hooks for taps.

        Args:
            backbone: A timm backbone.
            names: Stages ("stage1" is the first), or modules by their name within the backbone. With the suffix ":pre",
                a tap is the input of the last activation of the stage or module: in a residual block, the sum. If no
                activation ends the stage, as after linear bottlenecks, it is the output.
            backbone_name: Name of the backbone, for messages.

        Raises:
            UserError: There is no such stage or module.
        """
        if not names:
            return
        modules = dict(backbone.named_modules())
        stages = {f"stage{i}": info["module"] for i, info in enumerate(backbone.feature_info[-4:], start=1)}
        for module in modules.values():
            if hasattr(module, "inplace"):  # an in-place activation would overwrite the tapped output
                module.inplace = False
        for name in names:
            place, _, suffix = name.partition(":")
            path = stages.get(place, place)
            if place in stages and path not in modules:
                raise UserError(
                    f"the stages of {backbone_name} are not single modules, so that {place} cannot be read: choose "
                    "another backbone"
                )
            if path not in modules or suffix not in ("", "pre"):
                remedy = nearest(name, [*stages, *modules])
                if not stages:
                    remedy = ", and states no stages: choose a method that reads embeddings only"
                elif re.fullmatch(r"stage\d+", place) and place not in stages:
                    remedy = f"; its stages are {', '.join(stages)}: choose one of them, or another backbone"
                raise UserError(f"{backbone_name} has no stage or module {name!r}{remedy}")
            module, activation = modules[path], _last_activation(modules[path]) if suffix else None
            module.register_forward_hook(_record_output)
            if activation is not None:
                activation.register_forward_hook(_record_activation)
            self._modules[name] = module, activation

    def collect(self) -> dict[str, Tensor]:
        """Return the feature maps of the last forward pass by tap, and forget them."""
        maps = {name: _recorded(name, *modules) for name, modules in self._modules.items()}
        self.clear()
        return maps

    def clear(self) -> None:
        """Forget the feature maps of the last forward pass, so that their memory can be freed."""
        for module, activation in self._modules.values():
            module.__dict__.pop("tapped", None)
            if activation is not None:
                activation.__dict__.pop("activated", None)


# Outputs are kept on the module, not in a closure of the hook, so that a deep copy of the network keeps its own. The
# version counter of a tensor shows whether it was modified in place after it was recorded.


def _record_output(module: nn.Module, inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor):  # a stage of several branches returns a list
        module.__dict__["tapped"] = output, output._version


def _record_activation(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    module.__dict__["activated"] = inputs[0], inputs[0]._version, output


def _recorded(name: str, module: nn.Module, activation: nn.Module | None) -> Tensor:
    if "tapped" not in module.__dict__:
        raise UserError(f"{name} does not return one feature tensor, or is not part of the forward pass")
    output, version = module.__dict__["tapped"]
    if activation is not None:
        before, before_version, after = activation.__dict__["activated"]
        if after is output:  # the activation ends the module
            output, version = before, before_version
    if output._version != version:
        raise RuntimeError(f"the output of {name} is modified in place by a later layer: tap another module")
    return output


def _last_activation(module: nn.Module) -> nn.Module | None:
    """Return the activation that may end `module`: the last one of its last block; None if that block has none."""
    while children := list(module.children()):
        activations = [child for child in children if "activation" in type(child).__module__]
        if activations:
            return activations[-1]
        module = children[-1]
    return None
