"""Finding the tensors of a backbone in the content of a file, whatever surrounds them.

A file may hold several dictionaries of tensors under any keys, and the names of the tensors may have any prefix. Every
dictionary and every prefix is tried, and those are best with which most tensors have a name and shape of the backbone.
"""

import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

MAX_DEPTH = 4
"""Maximum number of nested dictionaries in which tensors are searched for."""
NOT_TRAINED = re.compile(
    r"(.*\.)?(num_batches_tracked|relative_position_index|attn_mask|position_ids|total_ops|total_params)"
)
"""Names of counters, of tables that follow from the architecture, and of profiles. A file may have or lack them."""

_NOT_WEIGHTS = re.compile(r"(?i).*(optim|sched|scaler).*|method|callbacks|loops|amp|hyper_parameters|message_hub")
"""Keys of the other state of a training."""
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that parallel training, torch.compile and activation checkpointing add."""
_FAMILIES = {
    r"(.*\.)?layer1\.0\..*": "resnet18 resnet34 resnet50 resnet101 resnet152 resnet26 resnet14t resnet26d resnet50d "
    "resnet101d wide_resnet50_2 resnext50_32x4d resnext101_32x8d seresnet50 seresnext50_32x4d res2net50_26w_4s",
    r"(.*\.)?patch_embed\..*": "vit_tiny_patch16_224 vit_small_patch16_224 vit_base_patch16_224 vit_large_patch16_224 "
    "vit_small_patch8_224 vit_base_patch8_224 vit_base_patch32_224 vit_small_patch14_dinov2 vit_base_patch14_dinov2 "
    "vit_base_patch16_clip_224 swin_tiny_patch4_window7_224 swin_small_patch4_window7_224 "
    "swin_base_patch4_window7_224 cait_s24_224",
    r"(.*\.)?stages\.0\..*": "convnext_tiny convnext_small convnext_base convnextv2_tiny regnety_040",
    r"(.*\.)?conv_stem\..*": "mobilenetv2_100 mobilenetv3_small_100 mobilenetv3_large_100 efficientnet_b0 "
    "efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnetv2_s",
    r"(.*\.)?features\..*": "densenet121 densenet169 densenet201 vgg16 vgg16_bn vgg19",
}
"""Common backbones by a pattern of their tensors' names."""


@dataclass(frozen=True, slots=True)
class StateDict:
    """A dictionary of tensors in a file, and the prefix with which the tensors of a backbone are found in it."""

    place: str
    """The keys that lead to the dictionary, joined by dots; empty for the content of the file."""
    prefix: str
    """What precedes the backbone's names; empty, or with a dot at the end."""
    tensors: Mapping[str, Tensor]
    """By the names in the file, without the parts that wrappers add."""
    fitting: int
    """Number of the backbone's tensors that are found with the same shape."""
    named: int
    """Number of the backbone's tensors that are found with any shape."""

    @property
    def title(self) -> str:
        """Place and prefix, for messages."""
        return ".".join(part for part in (self.place, self.prefix.rstrip(".")) if part)

    @property
    def root(self) -> str | None:
        """The prefix of the whole network; None unless the backbone's names begin with `backbone.` behind it."""
        before = self.prefix.removesuffix("backbone.")
        return before if before != self.prefix and before[-1:] in ("", ".") else None

    def renamed(self) -> dict[str, str]:
        """Return the keys of the tensors of backbone, neck and head, by the names that an `Embedder` gives them."""
        root = self.root
        own = () if root is None else (f"{root}neck.", f"{root}head.")
        names = {}
        for key in self.tensors:
            if key.startswith(self.prefix):
                names[f"backbone.{key.removeprefix(self.prefix)}"] = key
            elif key.startswith(own):
                names[key.removeprefix(root or "")] = key
        return names


def find_state_dicts(content: Any, shapes: Mapping[str, torch.Size]) -> list[StateDict]:
    """Return every way to find a backbone in the content of a file, the best one first.

    Of equally good ones, a moving average (`ema`) comes first, then a teacher, then the order in the file.

    Args:
        content: The content of the file.
        shapes: The shapes of the backbone's tensors by name.
    """
    found = []
    for place, tensors in named_tensors(content):
        fitting, named = _count(tensors, shapes)
        found += [StateDict(place, prefix, tensors, fitting[prefix], named[prefix]) for prefix in named]
    return sorted(found, key=lambda option: (-option.fitting, -option.named, _rank(option.title)))


def named_tensors(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dictionary that holds tensors by name, with the keys that lead to it, the outermost first."""
    queue, seen = deque([("", content, 0)]), set()
    while queue:
        place, value, depth = queue.popleft()
        if not isinstance(value, Mapping) or id(value) in seen or depth > MAX_DEPTH:
            continue
        seen.add(id(value))
        named = {key: entry for key, entry in value.items() if isinstance(key, str)}
        if tensors := {key: entry for key, entry in named.items() if isinstance(entry, Tensor)}:
            yield place, _without_wrappers(tensors)
        queue += [
            (f"{place}.{key}" if place else key, entry, depth + 1)
            for key, entry in named.items()
            if not _NOT_WEIGHTS.fullmatch(key)
        ]


def likely_backbone(content: Any) -> str | None:
    """Return the common backbone of timm whose tensors are in the content of a file; None if there is none."""
    best, best_fitting = None, 0
    for _, tensors in named_tensors(content):
        for pattern, names in _FAMILIES.items():
            if not any(re.fullmatch(pattern, key) for key in tensors):
                continue
            for name in names.split():
                shapes = _published_shapes(name)
                fitting, _ = _count(tensors, shapes)
                count = max(fitting.values(), default=0)
                if count > max(best_fitting, 0.95 * len(shapes)):
                    best, best_fitting = name, count
    return best


@cache
def _published_shapes(name: str) -> dict[str, torch.Size]:
    import timm

    with torch.device("meta"):
        return trained_shapes(timm.create_model(name, num_classes=0).state_dict())


def trained_shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of the tensors of a state dict, except those that need not be in a file."""
    return {name: value.shape for name, value in state.items() if not NOT_TRAINED.fullmatch(name)}


def has_negative_variance(name: str, value: Tensor) -> bool:
    """Whether a tensor of a state dict is the variance of a batch norm and has negative values, which give NaN."""
    return name.endswith("running_var") and bool((value < 0).any())


def _count(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> tuple[Counter[str], Counter[str]]:
    """Count the tensors that have a name of `shapes` after a prefix: those of the same shape, and all, by prefix."""
    fitting, named = Counter[str](), Counter[str]()
    for key, value in tensors.items():
        parts = key.split(".")
        for start in range(min(len(parts), 16)):
            name = ".".join(parts[start:])
            if name in shapes:
                prefix = "".join(f"{part}." for part in parts[:start])
                named[prefix] += 1
                fitting[prefix] += value.shape == shapes[name]
    return fitting, named


def _rank(title: str) -> int:
    words = set(re.split(r"[._]", title.lower()))
    return 0 if "ema" in words else 1 if "teacher" in words else 2


def _without_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    cleaned = {".".join(part for part in key.split(".") if part not in _WRAPPERS): key for key in tensors}
    return {name: tensors[key] for name, key in cleaned.items()} if len(cleaned) == len(tensors) else tensors
