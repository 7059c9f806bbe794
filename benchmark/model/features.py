"""Outputs of a network: what methods read, and how feature maps are taken from the stages of a backbone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from benchmark.errors import UserError, nearest
from benchmark.model.intermediates import check_intermediates, needs_intermediates, stage_levels
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
            `feature_info`; of a plain transformer, in which all blocks have one resolution, four equally spaced blocks.

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
    """The outputs of selected stages and modules of a backbone: kept by forward hooks, or returned by timm as maps."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[nn.Module, nn.Module | None]] = {}
        """Tap name -> the module, and for a tap before an activation the activation."""
        self._levels: dict[str, int] = {}
        """Tap name -> index in `forward_intermediates`, of stages that only that function returns as maps."""

    def add(self, backbone: Any, names: Sequence[str], backbone_name: str, args: Mapping[str, Any]) -> None:
        """Register taps.

        Args:
            backbone: A timm backbone.
            names: Stages ("stage1" is the first), or modules by their name within the backbone. The patch tokens of a
                stage are arranged as a map; a module's output is recorded as it is. With the suffix ":pre", a tap is
                the input of the last activation of the stage or module: in a residual block, the sum. If no activation
                ends the stage, as after linear bottlenecks, it is the output.
            backbone_name: Name of the backbone, for messages.
            args: Arguments with which the backbone was built.

        Raises:
            UserError: There is no such stage or module.
        """
        if not names:
            return
        modules = dict(backbone.named_modules())
        stages = {f"stage{i}": info["module"] for i, info in enumerate(backbone.feature_info[-4:], start=1)}
        levels = {}
        if any(name.partition(":")[0] in stages for name in names) and needs_intermediates(backbone, args):
            check_intermediates(backbone_name, args)
            levels = dict(zip(stages, stage_levels(backbone), strict=True))
        for module in modules.values():
            if hasattr(module, "inplace"):  # an in-place activation would overwrite the tapped output
                module.inplace = False
        for name in names:
            place, _, suffix = name.partition(":")
            path = stages.get(place, place)
            if place in levels and suffix in ("", "pre"):
                if suffix and any(_ends_with_activation(modules[each]) for each in modules.keys() & stages.values()):
                    raise UserError(
                        f"{backbone_name}: timm returns stages after their last activation, so that {name} cannot be "
                        "read: choose another backbone"
                    )
                self._levels[name] = levels[place]
                continue
            if place in stages and path not in modules:
                raise UserError(
                    f"{backbone_name} has no module {path.removeprefix('model.')!r}, which it states as {place}: "
                    "correct its stages"
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

    def forward_features(self, backbone: Any, pixels: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """Run a backbone once.

        Returns:
            What its `forward_features` returns, and the maps by tap that are not recorded by hooks.
        """
        if not self._levels:
            return backbone.forward_features(pixels), {}
        levels = sorted(set(self._levels.values()))
        last, maps = backbone.forward_intermediates(pixels, indices=levels, output_fmt="NCHW")
        return last, {name: maps[levels.index(level)] for name, level in self._levels.items()}

    def collect(self) -> dict[str, Tensor]:
        """Return what hooks have recorded in the last forward pass by tap, and forget it."""
        outputs = {name: _recorded(name, *modules) for name, modules in self._modules.items()}
        self.clear()
        return outputs

    def clear(self) -> None:
        """Forget the outputs of the last forward pass, so that their memory can be freed."""
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


def _ends_with_activation(module: nn.Module) -> bool:
    """Whether the last activation of `module` is not followed by a layer with weights, as it is in an MLP."""
    last = _last_activation(module)
    for parent in module.modules():
        children = dict(parent.named_children())
        if last is not None and last in children.values():
            following = list(children.items())[list(children.values()).index(last) + 1 :]
            return not any(
                next(child.parameters(), None) is not None for name, child in following if name != "downsample"
            )
    return False
