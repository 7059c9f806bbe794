"""Reading of weight files: what `torch.save` and safetensors write, without running code that a file names.

A file of `torch.save` is a pickle, which can name any class or function. Two locks keep code from running: `torch.load`
is called with `weights_only=True`, and the names in the pickle are compared with a list before. Classes that training
programs store next to the weights, such as `argparse.Namespace` or a NumPy scalar, are replaced by classes that hold
nothing, so that not even those are run.
"""

import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from benchmark.errors import UserError

SAVE_WEIGHTS = "save the weights alone with torch.save(network.state_dict(), PATH) in the program that made the file"
"""The remedy for files that hold more than weights."""

_TENSORS = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex)"
    r"|torch\.(Size|device|Tensor|\w+Storage|(b?float|u?int|complex|q?u?int|per_)\w+|bool|double|half|long|short)"
    r"|torch\.storage\.\w+Storage|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor"
    r"|meta_tensor_no_storage)|torch\._tensor\._rebuild_from_type_v2"
)
"""Full names in a pickle of tensors, all of which `torch.load` knows."""
_HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|(pathlib|datetime|decimal|uuid)\..+|functools\.partial"
    r"|collections\.(defaultdict|deque)|copyreg\._reconstructor"
    r"|builtins\.(getattr|object|type|list|dict|tuple|int|float|str|bool|bytes|slice|range|frozenset|Ellipsis)"
    r"|numpy\.(ndarray|dtype|(_?core\.)?multiarray\.(scalar|_reconstruct)|(_?core\.)?numeric\._frombuffer|dtypes\..+"
    r"|float\w+|int\w+|uint\w+|bool_?|str_|random\..+)"
    r"|torch\.(torch_version\.TorchVersion|optim\..+|nn\.modules\.loss\..+)"
    r"|(mmengine|mmcv|mmcls|mmpretrain|omegaconf|yacs|fvcore|fastreid|easydict|addict|ml_collections|pytorch_lightning"
    r"|lightning|lightning_fabric|lightning_utilities|torchmetrics|transformers|accelerate|ignite|apex)\..+"
)
"""Full names of what training programs store next to weights: arguments, configurations, counters and histories."""
_NETWORKS = re.compile(r"torch\.nn\.modules\..+|(torchvision|timm)\.models\..+")
_PYTHON_2 = {"long": "int", "unicode": "str", "xrange": "range"}
_DAMAGED = "is truncated or damaged: copy or download it again"
_SIGNATURES = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository"),
    (b"\x1f\x8b", "is a gzip archive: unpack it, and give the file of weights in it"),
    (b"BZh", "is a bzip2 archive: unpack it, and give the file of weights in it"),
    (b"\xfd7zXZ", "is an xz archive: unpack it, and give the file of weights in it"),
    (b"\x28\xb5\x2f\xfd", "is a zstd archive: unpack it, and give the file of weights in it"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it, and give the file of weights in it"),
    (b"Rar!", "is a rar archive: unpack it, and give the file of weights in it"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes it: give weights of PyTorch"),
    (b"\x93NUMPY", "is a NumPy array: give weights of PyTorch"),
    (b"GGUF", "is a GGUF file: give weights of PyTorch"),
)


def read(path: Path, kind: str) -> Any:
    """Return the content of a file of `torch.save` or safetensors; tensors are on the CPU.

    Objects of classes that are not needed for weights are missing or empty in it.

    Args:
        path: The file. Nothing else is opened.
        kind: What the file is in messages, such as "weights".

    Raises:
        UserError: The file is missing, damaged, of another format, or names code that is not on the list.
    """
    try:
        if not path.exists():
            raise UserError(f"{kind} {path} does not exist")
        if not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise UserError(f"{kind} {path} is {what}: give a file of torch.save or safetensors")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
        return _read(path, head, size)
    except _Unreadable as error:
        raise UserError(f"{kind} {path} {error}") from error
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror or error}") from error


class _Unreadable(Exception):
    """The end of an error message that begins with the name of the file."""


def _read(path: Path, head: bytes, size: int) -> Any:
    if not head:
        raise _Unreadable("is empty (0 bytes): copy or download it again")
    for signature, problem in _SIGNATURES:
        if head.startswith(signature):
            raise _Unreadable(problem)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _load(path, _names_in_zip(path, size))
    if head.startswith(b"\x80"):
        return _load(path, _names_in_legacy_file(path))
    if head[257:262] == b"ustar":
        raise _Unreadable(f"is a tar archive, as PyTorch wrote before 0.1.10: {SAVE_WEIGHTS}")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise _Unreadable(
            "is a web page, such as the question of a download for a confirmation: download the file again"
        )
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        raise _Unreadable("is a text file: give a file of torch.save or safetensors")
    raise _Unreadable("is not a file of torch.save or safetensors, or it is damaged: copy or download it again")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # of the library's own types, and of torch for unknown dtypes
        raise _Unreadable(_DAMAGED) from error


def _names_in_zip(path: Path, size: int) -> set[str]:
    """Return the full names in the pickle of a file as PyTorch has written since 1.6."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = [record.filename for record in records]
            folder = names[0].split("/")[0] if names else ""
            if f"{folder}/constants.pkl" in names:
                raise _Unreadable(
                    "is a TorchScript archive: save its weights, torch.save(torch.jit.load(FILE).state_dict(), PATH)"
                )
            if f"{folder}/data.pkl" not in names:
                raise _Unreadable(
                    "is a zip archive that was not written by torch.save: unpack it, or give another file"
                )
            if (
                any(record.compress_type for record in records)
                or sum(record.file_size for record in records) > size
                or len(set(names)) < len(names)
            ):
                raise _Unreadable("is a zip archive that was changed after torch.save wrote it: give the original file")
            if archive.testzip() is not None:  # torch.load does not compare the checksums
                raise _Unreadable(_DAMAGED)
            with archive.open(f"{folder}/data.pkl") as file:
                return _names(file)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _Unreadable(_DAMAGED) from error


def _names_in_legacy_file(path: Path) -> set[str]:
    """Return the full names in the pickles of a file as PyTorch wrote before 1.6."""
    with path.open("rb") as file:
        try:
            first = next(arg for _, arg, _ in pickletools.genops(file) if isinstance(arg, int) and arg > 255)
        except (StopIteration, ValueError, EOFError):
            first = None
        if first != torch.serialization.MAGIC_NUMBER:
            raise _Unreadable(f"is a pickle that was not written by torch.save: {SAVE_WEIGHTS}")
        try:
            file.seek(0)
            return set().union(*(_names(file) for _ in ("magic", "version", "system", "content")))
        except (ValueError, EOFError) as error:
            raise _Unreadable(_DAMAGED) from error


def _names(file: IO[bytes]) -> set[str]:
    """Return the full names of the classes and functions in a pickle, which is not executed.

    Protocol 2 writes them as in Python 2; they are returned as in Python 3, as `torch.load` reads them.
    """
    names = set()
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "PROTO" and argument != 2:
            raise _Unreadable(f"was saved with pickle protocol {argument}: save it again with the default protocol")
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
            names.add(f"{module}.{_PYTHON_2.get(name, name) if module == 'builtins' else name}")
    return names


def _load(path: Path, names: set[str]) -> Any:
    foreign = sorted(name for name in names if not _TENSORS.fullmatch(name) and not _HARMLESS.fullmatch(name))
    if foreign:
        networks = [name for name in foreign if _NETWORKS.fullmatch(name)]
        what = "a network as a Python object" if networks else f"an object of {printable(foreign[0])}"
        raise _Unreadable(f"holds {what}, which is not loaded because that would run code: {SAVE_WEIGHTS}")
    stand_ins = [(_stand_in(name), name) for name in names if _HARMLESS.fullmatch(name)]
    with warnings.catch_warnings(), _only_safe(stand_ins):
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _Unreadable(
                f"is damaged, or holds an object that is not loaded because that would run code: {SAVE_WEIGHTS}"
            ) from error
        except Exception as error:  # torch.load raises many types for a damaged file
            raise _Unreadable(_DAMAGED) from error


class StandIn:
    """Replaces an object that is not needed. It accepts any arguments and state, and keeps nothing."""

    def __new__(cls, *arguments: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# `torch.load` fills plain dictionaries and lists only, so that their subclasses are replaced by these.


class _DictStandIn(StandIn):
    def __new__(cls, *arguments: Any) -> Any:
        return OrderedDict()


class _ListStandIn(StandIn):
    def __new__(cls, *arguments: Any) -> Any:
        return []


def _stand_in(name: str) -> type[StandIn]:
    if re.search(r"(?i)dict|CfgNode|Namespace", name):
        return _DictStandIn
    return _ListStandIn if name.endswith(("deque", "List", "ListConfig")) else StandIn


@contextmanager
def _only_safe(allowed: Sequence[tuple[type, str]]) -> Iterator[None]:
    """Allow these classes, each with a full name, in `torch.load`, and none that other libraries have allowed."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(allowed))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def printable(name: str) -> str:
    """Return a name from a file as it may be printed: short and without control characters."""
    return "".join(character if character.isprintable() else "?" for character in name[:160])
