"""Weights of any origin: files of this suite, timm, torchvision, and libraries of metric learning."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.state_dicts import (
    NOT_TRAINED,
    StateDict,
    find_state_dicts,
    has_negative_variance,
    likely_backbone,
    named_tensors,
    trained_shapes,
)
from benchmark.model.weight_file import SAVE_WEIGHTS, printable, read

MAX_LISTED = 5
"""Maximum number of names in each list of a message."""
_EXPONENT = "backbone.global_pool.exponent"
"""The exponent of generalized-mean pooling, which no published backbone has."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The weights of a file that fit a network."""

    weights: Mapping[str, Tensor]
    """By the names of the network's state dict, in its dtypes."""
    identities: int
    """Number of classes of the file's classifier; 0 if it has none. It is in `weights` if the network has as many."""
    report: str
    """What is taken from the file and what is not, in one line."""


def load_weights(network: Embedder, path: Path, trained: bool = False) -> str:
    """Load weights into a network, or into its backbone if the file has no neck; see `fit_weights`.

    Returns:
        What was taken from the file and what was not, in one line.
    """
    fit = fit_weights(network, path, trained)
    if trained and "head.weight" not in fit.weights:
        network.head = None
    network.load_state_dict(dict(fit.weights), strict=False)
    return fit.report


def fit_weights(network: Embedder, path: Path, trained: bool = False) -> Fit:
    """Find the weights of a network in a file, without changing the network.

    Keys around the state dict and prefixes of its names are recognized; see `find_state_dicts`. Tensors that the
    backbone does not have are refused, except for classifiers and other parts outside of it.

    Args:
        network: The network; it may be on the `meta` device.
        path: A file of `torch.save` or safetensors. Code in it is not executed.
        trained: The file has to contain a trained network with its neck. A batch norm under another name is accepted as
            the neck `bn`. If False, the neck is optional. The classifier is optional in both cases.

    Raises:
        UserError: The file cannot be read, does not fit, or has values that are not finite.
    """
    content = read(path, "weights")
    options = find_state_dicts(content, trained_shapes(network.backbone.state_dict()))
    if not options or not options[0].fitting:
        raise _misfit(path, network, content, options)
    best, state, notes = options[0], network.state_dict(), _unwrapping(options)
    renamed = best.renamed()
    keys = {name: key for name, key in renamed.items() if name in state}
    optional = {name for name in state if NOT_TRAINED.fullmatch(name) or name.startswith("head.")}
    neck = {name for name in state if name.startswith("neck.") or name == _EXPONENT} - optional
    backbone_only = not trained and not keys.keys() & neck
    if backbone_only:
        optional |= neck
        notes.append("backbone only, the rest keeps its initial values")
    elif not keys.keys() & neck and (foreign := _foreign_neck(network, best, keys.values())):
        keys |= foreign
        notes.append(f"neck from {_listed(foreign.values())}")

    found = {name: _scalar(best.tensors[key], state[name]) for name, key in keys.items()}
    missing = sorted(state.keys() - found.keys() - optional)
    unequal = [name for name in found if found[name].shape != state[name].shape and name not in optional]
    superfluous = _superfluous(network, renamed)
    if missing and set(missing) <= neck and not (neck & found.keys() or unequal or superfluous):
        raise UserError(
            f"weights {path} contain a backbone only, and the network has a neck: give the file of a trained network "
            f"with {_listed(missing)}, or set `neck: none` and `pool: avg` if the pooled feature is the embedding"
        )
    if missing or unequal or superfluous:
        shapes = [f"{name} {_shape(found[name])} instead of {_shape(state[name])}" for name in unequal]
        raise _misfit(path, network, content, options, missing, superfluous, shapes)

    # A classifier with a bias is another one than this suite's.
    head = [name for name in renamed if name.startswith("head.")]
    classes = best.tensors[renamed["head.weight"]].shape if head == ["head.weight"] else torch.Size()
    identities = classes[0] if len(classes) == 2 else 0
    taken = {
        name: value
        for name, value in found.items()
        if value.shape == state[name].shape
        and (name not in optional or value.is_floating_point() == state[name].is_floating_point())
        and (name != "head.weight" or identities)
    }
    if "head.weight" in state and "head.weight" not in taken and not backbone_only:
        notes.append("no classifier for these identities")
    weights = {name: _converted(path, name, value, state[name]) for name, value in taken.items()}
    if not any(value.any() for value in weights.values() if value.dim() > 1):
        raise UserError(f"weights {path} hold zeros only: give the weights of a trained network")
    notes += _conversions(taken)
    used = {keys[name] for name in taken}
    if unused := [key for key in best.tensors if key not in used and not NOT_TRAINED.fullmatch(key)]:
        notes.append(f"not used: {_listed(unused)}")
    counted = f"{len(weights)} tensors of {network.architecture['backbone']}"
    return Fit(weights, identities, f"weights {path}: {'; '.join([counted, *notes])}")


def _unwrapping(options: Sequence[StateDict]) -> list[str]:
    """Return notes on where the state dict was found, and on others that would fit as well."""
    best = options[0]
    prefix = best.prefix if best.root is None else best.root
    notes = [f"taken from {printable(best.place)}"] if best.place else []
    notes += [f"prefix {printable(prefix)} removed"] if prefix else []
    equal = [other.title for other in options[1:] if (other.fitting, other.named) == (best.fitting, best.named)]
    return [*notes, f"{_listed(equal)} would fit as well"] if equal else notes


def _foreign_neck(network: Embedder, found: StateDict, used: Collection[str]) -> dict[str, str]:
    """Return the keys of a neck `bn` and of a GeM exponent under the names of other libraries, by the suite's names.

    The neck is the batch norm outside of the backbone that has its width, if there is only one. The exponent is `p`.
    """
    state, keys = network.state_dict(), {}
    rest = {key: value for key, value in found.tensors.items() if key not in used}
    if isinstance(network.neck, nn.BatchNorm1d):
        means = [key for key, value in rest.items() if key.endswith("running_mean") and value.shape == (network.dim,)]
        if len(means) == 1:
            norm = means[0].removesuffix("running_mean")
            keys = {f"neck.{name}": f"{norm}{name}" for name in network.neck.state_dict()}
    exponents = [key for key, value in rest.items() if re.fullmatch(r"(.*\.)?p", key) and value.numel() == 1]
    if _EXPONENT in state and len(exponents) == 1:
        keys[_EXPONENT] = exponents[0]
    return {name: key for name, key in keys.items() if key in rest}


def _superfluous(network: Embedder, renamed: Mapping[str, str]) -> list[str]:
    """Return the keys of tensors in parts that the network has, but without a place in it."""
    state = network.state_dict()
    own_neck = any(name in state for name in renamed if name.startswith("neck."))
    parts = {name.split(".")[1] for name in state if name.startswith("backbone.")}
    names = network.backbone.pretrained_cfg.get("classifier") or ()
    classifiers = tuple(f"backbone.{name}." for name in ((names,) if isinstance(names, str) else names))
    return [
        key
        for name, key in renamed.items()
        if name not in state
        and not NOT_TRAINED.fullmatch(name)
        and not name.startswith(("head.", *classifiers))
        and (own_neck if name.startswith("neck.") else name.split(".")[1] in parts)
    ]


def _misfit(
    path: Path,
    network: Embedder,
    content: Any,
    options: Sequence[StateDict],
    missing: Sequence[str] = (),
    superfluous: Sequence[str] = (),
    unequal: Sequence[str] = (),
) -> UserError:
    """Return the error for a file that does not fit, with what differs and what the file is likely to be."""
    if next(named_tensors(content), None) is None:
        keys = content if isinstance(content, Mapping) else ()
        found = _listed(str(key) if isinstance(key, str | int) else type(key).__name__ for key in keys)
        but = f", but the keys {found}" if found else ""
        return UserError(f"weights {path} do not hold a dictionary of tensors by name{but}: {SAVE_WEIGHTS}")
    backbone, expected = network.architecture["backbone"], len(trained_shapes(network.backbone.state_dict()))
    fitting = options[0].fitting if options else 0
    lines = [f"weights {path} do not fit {backbone}: {fitting} of its {expected} tensors have the same name and shape"]
    if isinstance(content, Mapping) and "architecture" in content and "edits" in content:
        lines[0] += (
            ". The file is a deployed student, whose batch norms are folded into other layers: give the file "
            "checkpoints/last.pt of its run"
        )
    elif unequal and not missing and all(re.search("pos_embed|rel_pos", line) for line in unequal):
        lines[0] += ". It was made for images of another size: set `image_size`, and `img_size` in `args`, to that size"
    elif (likely := likely_backbone(content)) is not None and likely != backbone.partition(".")[0]:
        lines[0] += f". The file fits {likely}: set the backbone to {likely}, or give another file"
    elif options and options[0].named == expected and fitting < expected:
        lines[0] += ". All names fit: set the `args` of the backbone with which the file was made"
    problems = (("missing", missing), ("not in the network", superfluous), ("of another shape", unequal))
    lines += [f"{len(names)} {problem}: {_listed(names)}" for problem, names in problems if names]
    return UserError("\n  ".join(lines))


def _converted(path: Path, name: str, value: Tensor, target: Tensor) -> Tensor:
    """Return a tensor of a file in the dtype of the network.

    Raises:
        UserError: It has no plain values, integers instead of floating-point numbers, or values that are not finite.
    """
    place = f"weights {path}: {name}"
    if value.is_quantized or target.is_floating_point() != value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise UserError(f"{place} has the dtype {kind}: give the weights before quantization, in floating point")
    if value.layout != torch.strided or value.is_meta:
        raise UserError(f"{place} has no dense values: {SAVE_WEIGHTS}")
    converted = value.detach().to(target.dtype)
    if converted.is_floating_point() and not (finite := converted.isfinite()).all():
        count = int((~finite).sum())
        raise UserError(
            f"{place} has {count} values of {value.numel()} that are NaN or infinite: the training that wrote the file "
            "has diverged; give the weights of an earlier epoch"
        )
    if has_negative_variance(name, converted):
        raise UserError(f"{place} has negative values, which no variance has: give the file as it was saved")
    return converted


def _conversions(taken: Mapping[str, Tensor]) -> list[str]:
    dtypes = {str(value.dtype).removeprefix("torch.") for value in taken.values() if value.is_floating_point()}
    return [f"converted from {', '.join(other)}"] if (other := sorted(dtypes - {"float32"})) else []


def _scalar(value: Tensor, target: Tensor) -> Tensor:
    """Return a tensor of one value in the shape of the network's, which may have no dimension."""
    return value.reshape(target.shape) if value.shape == (1,) and target.dim() == 0 else value


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))


def _listed(names: Iterable[str]) -> str:
    """Return the first names, and whether there are more."""
    shown = [printable(name) for name in dict.fromkeys(names)]
    return ", ".join(shown[:MAX_LISTED]) + (", ..." if len(shown) > MAX_LISTED else "")
