"""Student files, which hold a deployed network, and loading of weights into a network."""

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from timm.layers import BatchNormAct2d, BlurPool2d, Conv2dSame
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.utils.atomic import atomic_path

FORMAT = 1
"""Version of the student file."""
MAX_LISTED_KEYS = 5
"""Maximum number of keys in each list of an error message."""

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Conv2d": (nn.Conv2d, _CONVOLUTION),
    "Conv2dSame": (Conv2dSame, _CONVOLUTION),
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "BatchNorm1d": (nn.BatchNorm1d, ("num_features",)),
    "BatchNorm2d": (nn.BatchNorm2d, ("num_features",)),
    "BlurPool2d": (BlurPool2d, ("channels", "filt_size", "stride", "pad_mode")),
    "Identity": (nn.Identity, ()),
}
"""Layers that an edit can describe, with the arguments of their constructors."""
_ACTIVATION = {"type": "activation"}
"""Edit of timm's BatchNormAct2d whose batch norm was folded, so that only its activation remains."""


def save_student(student: Embedder, path: Path, image_size: tuple[int, int]) -> None:
    """Write the embedding network of `student`, without its classifier head, atomically.

    The file holds the arguments of the original architecture, an edit for each layer that differs from it, and the
    weights.

    Args:
        student: The network.
        path: The file to write.
        image_size: (height, width) of test images, stored in the file.

    Raises:
        TypeError: A layer differs from the original architecture in a way that no edit can describe.
    """
    edits, weights = _edits(student), _embedding_weights(student)
    shapes = {name: value.shape for name, value in weights.items()}
    rebuilt = {name: value.shape for name, value in _rebuild(student.architecture, edits).state_dict().items()}
    if unequal := shapes.items() ^ rebuilt.items():
        names = ", ".join(sorted({name for name, _ in unequal}))
        raise TypeError(f"a student file cannot describe the shapes of {names}")
    content = {
        "format": FORMAT,
        "architecture": student.architecture,
        "image_size": list(image_size),
        "edits": edits,
        "weights": weights,
    }
    # If the file cannot be written, torch.save to a path would hide the reason that the operating system gives.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_student(path: str | Path, device: str | torch.device = "cpu") -> Embedder:
    """Load a deployed network in eval mode. The method that trained it is not needed.

    Args:
        path: The `student.pt` of a run.
        device: Where to put the network.

    Returns:
        A network that maps (B, 3, H, W) uint8 RGB images to (B, dim) embeddings.

    Raises:
        UserError: The file does not exist or is not a student file of this format.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"student file {path} does not exist") from error
    except Exception as error:  # torch.load raises many types for a damaged file
        raise UserError(f"{path} is not a readable student file: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a student file of format {FORMAT}; it was not written by `benchmark run`")
    try:
        student = _rebuild(content["architecture"], content["edits"])
        student.load_state_dict(content["weights"], strict=True)
    except (UserError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} describes a network that cannot be built here: {error}") from error
    student.to(device)
    return student.to(memory_format=torch.channels_last).eval()


def weights_hash(student: Embedder) -> str:
    """Return the SHA-256 of the names, shapes, dtypes and values of the embedding network's weights."""
    digest = sha256()
    for name, value in sorted(_embedding_weights(student).items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _embedding_weights(student: Embedder) -> dict[str, Tensor]:
    return {name: value for name, value in student.state_dict().items() if not name.startswith("head.")}


def _edits(student: Embedder) -> dict[str, dict[str, Any]]:
    """Describe every layer that differs from the network built from `student.architecture`, by its name."""
    original = dict(Embedder(**student.architecture).named_modules())
    edits = {}
    for name, module in student.named_modules():
        if any(True for _ in module.children()) or name.startswith("head"):
            continue
        before = original.get(name)
        if before is not None and type(module) is type(before) and _describe(module) == _describe(before):
            continue
        if isinstance(before, BatchNormAct2d) and type(module) is type(before.act):
            edits[name] = _ACTIVATION
        elif before is None or type(module).__name__ not in _LAYERS:
            raise TypeError(f"layer {name} became a {type(module).__name__}, which a student file cannot describe")
        else:
            edits[name] = _describe(module)
    return edits


def _describe(module: nn.Module) -> dict[str, Any]:
    kind = type(module).__name__
    fields = {field: getattr(module, field) for field in _LAYERS[kind][1]} if kind in _LAYERS else {}
    description = {"type": kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
    if isinstance(module, nn.Conv2d | nn.Linear):
        description["bias"] = module.bias is not None
    return description


def _rebuild(architecture: dict[str, Any], edits: dict[str, dict[str, Any]]) -> Embedder:
    """Build the original architecture and apply the edits. The weights are random."""
    student = Embedder(**architecture)
    for name, edit in edits.items():
        if edit == _ACTIVATION:
            student.set_submodule(name, student.get_submodule(f"{name}.act"))
            continue
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in edit.items() if k != "type"}
        student.set_submodule(name, _LAYERS[edit["type"]][0](**arguments))
    return student


def load_weights(network: Embedder, path: Path, trained: bool = False) -> None:
    """Load weights into a network, or into its backbone if the file contains a backbone only.

    The file is a safetensors file or a torch file, read with `weights_only=True`: code in it is not executed. Keys and
    shapes have to match, except that the classifier of a published backbone is ignored.

    Args:
        network: Receives the weights.
        path: The file.
        trained: The file has to contain a trained network with its neck. If its classifier head is missing, or is for
            other identities, the head of `network` is removed.

    Raises:
        UserError: The file cannot be read, or keys or shapes differ; the message lists the first differences.
    """
    weights = _read_weights(path)
    if trained:
        weights = _drop_unequal_head(weights, network)
    network_state, backbone_state = network.state_dict(), network.backbone.state_dict()
    if weights.keys() > backbone_state.keys():
        weights = _drop_classifier(weights, network)
    backbone_only = weights.keys() <= backbone_state.keys()
    if backbone_only and trained:
        raise UserError(
            f"weights {path} contain a backbone only; give the file of a trained network, which includes its neck"
        )
    target, expected = (network.backbone, backbone_state) if backbone_only else (network, network_state)
    unequal = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} {problem}: {', '.join(names[:MAX_LISTED_KEYS])}{', ...' if len(names) > MAX_LISTED_KEYS else ''}"
        for problem, names in (
            ("missing", sorted(expected.keys() - weights.keys())),
            ("not in the network", sorted(weights.keys() - expected.keys())),
            ("of another shape", unequal),
        )
        if names
    ]
    if problems:
        raise UserError(f"weights {path} do not fit {network.architecture['backbone']}:\n  " + "\n  ".join(problems))
    target.load_state_dict(weights, strict=True)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many types for a damaged file
        raise UserError(f"weights file {path} cannot be read safely: {error}") from error
    if isinstance(content, dict):
        for key in ("student", "state_dict", "model"):  # checkpoints of this suite, and common wrappers
            content = content.get(key, content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"weights file {path} does not hold a dictionary of tensors")
    return content


def _drop_unequal_head(weights: dict[str, Tensor], network: Embedder) -> dict[str, Tensor]:
    """Remove a head of other shapes from the weights, and then also from the network."""

    def shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in tensors.items() if name.startswith("head.")}

    if shapes(weights) == shapes(network.state_dict()):
        return weights
    network.head = None
    return {name: value for name, value in weights.items() if not name.startswith("head.")}


def _drop_classifier(weights: dict[str, Tensor], network: Embedder) -> dict[str, Tensor]:
    """Remove the classifier of a published backbone from the weights."""
    names = network.backbone.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return {name: value for name, value in weights.items() if not name.startswith(prefixes)}
