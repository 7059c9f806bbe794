"""Loading weights from files that may come from anywhere."""

from pathlib import Path

import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder


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
