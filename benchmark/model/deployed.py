"""Saving and loading a deployed network: its weights and a description of its architecture.

A compressed student cannot be loaded from weights alone, since its layers have widths that no constructor gives. The
file therefore holds how to build the network it came from, and an edit for every layer that differs from that network.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from timm.layers import BlurPool2d
from torch import nn

from benchmark.atomic import atomic_path
from benchmark.errors import UserError
from benchmark.model.embedder import Embedder

FORMAT = 1

_FIELDS = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "Linear": ("in_features", "out_features"),
    "BatchNorm1d": ("num_features",),
    "BatchNorm2d": ("num_features",),
    "BlurPool2d": ("channels", "filt_size", "stride", "pad_mode"),
    "Identity": (),
}
"""The layers that an edit can describe, and their constructor arguments."""


def save_student(student: Embedder, path: Path, image_size: tuple[int, int]) -> None:
    """Write the embedding network of `student` (no classifier head), atomically.

    Raises:
        TypeError: A layer differs from the original architecture in a way that no edit can describe.
    """
    content = {
        "format": FORMAT,
        "architecture": student.architecture,
        "image_size": list(image_size),
        "edits": _edits(student),
        "weights": _embedding_weights(student),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_student(path: str | Path, device: str | torch.device = "cpu") -> Embedder:
    """The deployed network in `path`, in eval mode. It maps (B, 3, H, W) uint8 RGB images to (B, dim) embeddings.

    Nothing needs to be known about the method that made it.

    Raises:
        UserError: The file does not exist or is not a student of this format.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"student file {path} does not exist") from error
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise UserError(f"{path} is not a readable student file: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a student file of format {FORMAT}; it was not written by `benchmark run`")
    student = Embedder(**content["architecture"])
    for name, edit in content["edits"].items():
        student.set_submodule(name, _build(edit))
    student.load_state_dict(content["weights"], strict=True)
    return student.to(device=device, memory_format=torch.channels_last).eval()


def weights_hash(student: Embedder) -> str:
    """sha256 over names, shapes and values of the embedding network's weights."""
    digest = sha256()
    for name, value in sorted(_embedding_weights(student).items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _embedding_weights(student: Embedder) -> dict[str, torch.Tensor]:
    return {name: value for name, value in student.state_dict().items() if not name.startswith("head.")}


def _edits(student: Embedder) -> dict[str, dict[str, Any]]:
    original = dict(Embedder(**student.architecture).named_modules())
    edits = {}
    for name, module in student.named_modules():
        if any(True for _ in module.children()) or name.startswith("head"):
            continue
        before = original[name]
        if type(module) is type(before) and _describe(module) == _describe(before):
            continue
        if type(module).__name__ not in _FIELDS:
            raise TypeError(f"layer {name} became a {type(module).__name__}, which a student file cannot describe")
        edits[name] = _describe(module)
    return edits


def _describe(module: nn.Module) -> dict[str, Any]:
    kind = type(module).__name__
    fields = {field: getattr(module, field) for field in _FIELDS.get(kind, ())}
    description = {"type": kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
    if isinstance(module, nn.Conv2d | nn.Linear):
        description["bias"] = module.bias is not None
    return description


def _build(edit: dict[str, Any]) -> nn.Module:
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in edit.items() if k != "type"}
    if edit["type"] == "BlurPool2d":
        return BlurPool2d(**arguments)
    return getattr(nn, edit["type"])(**arguments)
