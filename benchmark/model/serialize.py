"""Files that hold a deployed network: `student.pt`, or a folder with a configuration and safetensors."""

import io
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from timm.layers import BatchNormAct2d, BlurPool2d, Conv2dSame
from torch import Tensor, nn

from benchmark.data.decode import WHITE, Color
from benchmark.errors import UserError
from benchmark.model._student_format import Description, StudentConfig, StudentFile
from benchmark.model.backbone import check_name
from benchmark.model.embedder import Embedder
from benchmark.model.state_dicts import has_negative_variance
from benchmark.model.weight_file import printable, read
from benchmark.utils import strict_json
from benchmark.utils.atomic import atomic_path, write_text

FORMAT = 1
"""Version of the student file."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
"""The files of a student's folder, with the names that the Hugging Face Hub expects."""

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
_MAX_TABLES = 2**28
"""Largest size of the tensors that a network computes from its architecture, in bytes; no weights bound it."""
_ACTIVATION = {"type": "activation"}
"""Edit of timm's BatchNormAct2d whose batch norm was folded, so that only its activation remains."""


def save_student(student: Embedder, path: Path, image_size: tuple[int, int], background: Color = WHITE) -> None:
    """Write the embedding network of `student`, without its classifier head, to a file, atomically.

    The file holds the arguments of the original architecture, an edit for each layer that differs from it, and the
    weights.

    Args:
        student: The network.
        path: The file to write.
        image_size: (height, width) of test images, stored in the file.
        background: What shows through transparent pixels of these images, stored in the file.

    Raises:
        TypeError: A layer differs from the original architecture in a way that no edit can describe.
    """
    write(_describe(student, image_size, background) | {"weights": _embedding_weights(student)}, path)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values with `torch.save`, atomically."""
    # If the file cannot be written, torch.save to a path would hide the reason that the operating system gives.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_folder(student: Embedder, folder: Path, image_size: tuple[int, int], background: Color = WHITE) -> None:
    """Write the embedding network of `student` to `config.json` and `model.safetensors` in a folder, each atomically.

    Args:
        student: The network.
        folder: The folder, which is created if needed.
        image_size: (height, width) of test images.
        background: What shows through transparent pixels of these images.

    Raises:
        TypeError: A layer differs from the original architecture in a way that no edit can describe.
    """
    from safetensors.torch import save

    content = _describe(student, image_size, background) | {"weights": weights_hash(student)}
    # Copies, because safetensors refuses tensors that share memory or have the channels last.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in _embedding_weights(student).items()
    }
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save(weights))
    write_text(folder / CONFIG_FILE, json.dumps(content, indent=2) + "\n")


def load_network(path: Path, device: str | torch.device = "cpu") -> Embedder:
    """Load a deployed network in eval mode. The method that trained it is not needed.

    Args:
        path: The `student.pt` of a run. Code in it is not executed, and nothing else is read.
        device: Where to put the network.

    Returns:
        A network that maps (B, 3, H, W) uint8 RGB images to (B, dim) embeddings. It accepts images of the size for
        which it was trained, `input_size`; set that to None to embed images of any size.

    Raises:
        UserError: The file does not exist or is not a student file of this format.
    """
    content = read(path, "student file")
    if not is_student(content):
        raise UserError(f"{path} is not a student file of format {FORMAT}; it was not written by `benchmark run`")
    try:
        file = StudentFile.model_validate(content)
    except ValidationError as error:
        raise _invalid(path, error) from error
    return _restore(path, file, file.weights).to(device)


def load_folder(folder: Path, device: str | torch.device = "cpu") -> Embedder:
    """Load a deployed network that `save_folder` has written; see `load_network`.

    Raises:
        UserError: A file is missing or invalid, or the files do not belong together.
    """
    path = folder / CONFIG_FILE
    try:
        content = strict_json.read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not the configuration of a student: {error}") from error
    if not is_student(content):
        raise UserError(f"{path} is not the configuration of a student of format {FORMAT}: give another folder")
    try:
        config = StudentConfig.model_validate(content)
    except ValidationError as error:
        raise _invalid(path, error) from error
    network = _restore(folder, config, read(folder / WEIGHTS_FILE, "student file"))
    if weights_hash(network) != config.weights:
        raise UserError(f"{folder / WEIGHTS_FILE} has other weights than {path} states: copy or download both again")
    return network.to(device)


def is_student(content: Any) -> bool:
    """Whether the content of a file is that of a student file, valid or not."""
    if not isinstance(content, dict) or "architecture" not in content:
        return False
    version = content.get("format")
    return type(version) is int and version == FORMAT


def _describe(student: Embedder, image_size: tuple[int, int], background: Color) -> dict[str, Any]:
    """Return everything about a network but its weights, as the plain values of a `Description`."""
    edits, weights = _edits(student), _embedding_weights(student)
    shapes = {name: value.shape for name, value in weights.items()}
    rebuilt = {name: value.shape for name, value in _rebuild(student.architecture, edits).state_dict().items()}
    if unequal := shapes.items() ^ rebuilt.items():
        names = ", ".join(sorted({name for name, _ in unequal}))
        raise TypeError(f"a student file cannot describe the shapes of {names}")
    content: dict[str, Any] = {
        "format": FORMAT,
        "architecture": student.architecture,
        "image_size": list(image_size),
        "edits": edits,
    }
    if background != WHITE:
        content["background"] = list(background)
    try:
        Description.model_validate(content)
    except ValidationError as error:
        raise TypeError(f"a student file cannot describe this network: {error}") from error
    return content


def _restore(place: Path, description: Description, weights: dict[str, Tensor]) -> Embedder:
    """Build the network of a file, in eval mode.

    Args:
        place: The file, for messages.
        description: The network.
        weights: The content of the file of weights.

    Raises:
        UserError: The network cannot be built, or the weights do not fit.
    """
    architecture = description.architecture.model_dump(exclude_unset=True)
    edits = {name: edit.model_dump() for name, edit in description.edits.items()}
    try:
        check_name(architecture["backbone"])  # not of a plugin, which runs code
        with torch.device("meta"):
            _check(_rebuild(architecture, edits), description.image_size, weights)
        student = _rebuild(architecture, edits)
    except UserError as error:
        raise UserError(f"{place} describes a network that cannot be built here: {error}") from error
    except Exception as error:  # whatever a backbone or a layer raises for its arguments
        reason = printable(f"{type(error).__name__}: {error}")
        raise UserError(
            f"{place} describes a network that cannot be built: the file is damaged or was changed ({reason})"
        ) from error
    student.load_state_dict(weights, strict=True)
    student.input_size, student.background = description.image_size, description.background
    return student.to(memory_format=torch.channels_last).eval()


def _invalid(path: Path, error: ValidationError) -> UserError:
    first = error.errors()[0]
    key = printable(".".join(map(str, first["loc"])))
    return UserError(f"{path} is not a valid student file: {key}: {printable(first['msg'])}")


def _check(network: Embedder, image_size: tuple[int, int], weights: Mapping[str, Tensor]) -> None:
    """Check the weights of a student file, and that the network embeds images of the size in the file.

    Args:
        network: The rebuilt network, on the `meta` device.
        image_size: (height, width) of the images in pixels.
        weights: The weights by name.

    Raises:
        UserError: Weights are missing, superfluous, of another shape or dtype, or not finite; or the network would take
            far more memory than its weights.
    """
    state = network.state_dict()
    if different := sorted(state.keys() ^ weights.keys()):
        kind = "no" if different[0] in state else "an unknown"
        raise UserError(f"the weights have {kind} tensor {printable(different[0])}")
    for name, value in weights.items():
        expected = state[name]
        if value.shape != expected.shape or value.dtype != expected.dtype:
            raise UserError(
                f"{name} has {tuple(value.shape)} {value.dtype} values instead of {tuple(expected.shape)} "
                f"{expected.dtype}"
            )
        if value.layout != torch.strided or value.is_meta or not value.isfinite().all():
            raise UserError(f"{name} has values that are missing, NaN or infinite")
        if has_negative_variance(name, value):
            raise UserError(f"{name} has negative values, which no variance has")
    tables = sum(buffer.nbytes for name, buffer in network.named_buffers() if name not in state)
    if tables > _MAX_TABLES:
        raise UserError(
            f"it computes tables of {tables / 2**20:,.0f} MiB, more than {_MAX_TABLES // 2**20} are possible"
        )
    with torch.no_grad():
        output = network.eval()(torch.empty(1, 3, *image_size, dtype=torch.uint8, device="meta"))
    if output.shape != (1, network.dim):
        raise UserError(f"its output for an image is {tuple(output.shape)} instead of (1, {network.dim})")


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
        before = original.get(name)
        if isinstance(before, BatchNormAct2d) and isinstance(module, nn.Sequential):
            edits[name] = {**_layer(module[0]), "activation": True}
            continue
        parent = name.rpartition(".")[0]
        if any(True for _ in module.children()) or name.startswith("head") or "activation" in edits.get(parent, {}):
            continue
        if before is not None and type(module) is type(before) and _layer(module) == _layer(before):
            continue
        if isinstance(before, BatchNormAct2d) and type(module) is type(before.act):
            edits[name] = _ACTIVATION
        elif before is None or type(module).__name__ not in _LAYERS:
            raise TypeError(f"layer {name} became a {type(module).__name__}, which a student file cannot describe")
        else:
            edits[name] = _layer(module)
    return edits


def _layer(module: nn.Module) -> dict[str, Any]:
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
        student.get_submodule(name)  # raises AttributeError for a new name, which set_submodule would accept
        if edit == _ACTIVATION:
            student.set_submodule(name, student.get_submodule(f"{name}.act"))
            continue
        arguments = {
            k: tuple(v) if isinstance(v, list) else v for k, v in edit.items() if k not in ("type", "activation")
        }
        layer = _LAYERS[edit["type"]][0](**arguments)
        if edit.get("activation"):
            layer = nn.Sequential(layer, student.get_submodule(f"{name}.act"))
        student.set_submodule(name, layer)
    return student
