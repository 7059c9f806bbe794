"""Saving and loading networks."""

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


def load_weights(network: Embedder, path: Path, trained: bool = False) -> None:
    """Load a file into the whole network, or into its backbone where all of the file's keys are the backbone's.

    safetensors, or a torch file read with `weights_only=True`: no code in the file is run. Loading is strict, but for
    the classifier that a published backbone comes with, which this network does not have.

    Args:
        network: Gets the weights.
        path: The file.
        trained: It must hold a whole trained network, neck and all. Only a classifier may be missing, or be for other
            identities, and then the network is left without one.

    Raises:
        UserError: The file cannot be read, or its keys or shapes differ; the first differences are listed.
    """
    weights = _read(path)
    if trained:
        weights = _with_fitting_head(weights, network)
    whole, backbone = network.state_dict(), network.backbone.state_dict()
    weights = _without_classifier(weights, network) if weights.keys() > backbone.keys() else weights
    backbone_alone = weights.keys() <= backbone.keys()
    if backbone_alone and trained:
        raise UserError(f"weights {path} are of a backbone alone: a trained network has a neck that makes embeddings")
    target, expected = (network.backbone, backbone) if backbone_alone else (network, whole)
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    unequal = [
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in (("missing", missing), ("not in the network", surplus), ("of another shape", unequal))
        if names
    ]
    if problems:
        raise UserError(f"weights {path} do not fit {network.architecture['backbone']}:\n  " + "\n  ".join(problems))
    target.load_state_dict(weights, strict=True)


def _with_fitting_head(weights: dict[str, Tensor], network: Embedder) -> dict[str, Tensor]:
    """The weights, without a classifier that does not fit; the network then has none either."""

    def shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in tensors.items() if name.startswith("head.")}

    if shapes(weights) == shapes(network.state_dict()):
        return weights
    network.head = None
    return {name: value for name, value in weights.items() if not name.startswith("head.")}


def _without_classifier(weights: dict[str, Tensor], network: Embedder) -> dict[str, Tensor]:
    names = network.backbone.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return {name: value for name, value in weights.items() if not name.startswith(prefixes)}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds for a damaged file
        raise UserError(f"weights file {path} cannot be read safely: {error}") from error
    if isinstance(content, dict):
        for key in ("student", "state_dict", "model"):  # our checkpoints, and the usual wrappings
            content = content.get(key, content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"weights file {path} does not hold a dictionary of tensors")
    return content


FORMAT = 1

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
"""The layers that an edit can describe, and their constructors' arguments."""
_ACTIVATION = {"type": "activation"}
"""The edit of a batch-norm with an activation (timm's BatchNormAct2d) of which only the activation is left."""


def save_student(student: Embedder, path: Path, image_size: tuple[int, int]) -> None:
    """Write the embedding network of `student` (no classifier head), atomically.

    Raises:
        TypeError: A layer differs from the original architecture in a way that no edit can describe.
    """
    edits, weights = _edits(student), _embedding_weights(student)
    shapes = {name: value.shape for name, value in weights.items()}
    wrong = shapes.items() ^ {n: v.shape for n, v in _rebuilt(student.architecture, edits).state_dict().items()}.items()
    if wrong:
        raise TypeError(
            f"a student file cannot describe the shapes of {', '.join(sorted({name for name, _ in wrong}))}"
        )
    content = {
        "format": FORMAT,
        "architecture": student.architecture,
        "image_size": list(image_size),
        "edits": edits,
        "weights": weights,
    }
    whole = io.BytesIO()  # torch hides the reason when a file cannot be written
    torch.save(content, whole)
    with atomic_path(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


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
    try:
        student = _rebuilt(content["architecture"], content["edits"])
        student.load_state_dict(content["weights"], strict=True)
    except (UserError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} describes a network that cannot be built here: {error}") from error
    student.to(device)
    return student.to(memory_format=torch.channels_last).eval()


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
    """How each layer differs from the network that `architecture` builds."""
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


def _rebuilt(architecture: dict[str, Any], edits: dict[str, dict[str, Any]]) -> Embedder:
    """The network with every edit done; its weights are anything."""
    student = Embedder(**architecture)
    for name, edit in edits.items():
        if edit == _ACTIVATION:
            student.set_submodule(name, student.get_submodule(f"{name}.act"))
            continue
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in edit.items() if k != "type"}
        student.set_submodule(name, _LAYERS[edit["type"]][0](**arguments))
    return student
