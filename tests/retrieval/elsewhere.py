"""A device other than the CPU that every machine has.

Its tensors lie in the CPU's memory, but as on a GPU, no operation mixes them with the CPU's (a number excepted), NumPy
does not see them, and what goes back to the CPU is noted, in `LEFT`. Importing this sets torch up for it, for the whole
process.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16]


_setup_privateuseone_for_python_backend("elsewhere", _Module())
HERE = torch.device("elsewhere:0")
LEFT: list[Tensor] = []
"""What was copied to the CPU, numbers included."""
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(Tensor):
    """A tensor there; `here` is what it holds."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        there = Tensor._make_wrapper_subclass(cls, here.shape, here.stride(), dtype=here.dtype, device=HERE)
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given, structure = tree.tree_flatten((args, kwargs or {}))
        for value in given:
            if isinstance(value, Tensor) and not isinstance(value, cls) and value.ndim and function not in _COPIES:
                raise RuntimeError(f"{function} of tensors on two devices")
        held = [value.here if isinstance(value, cls) else value for value in given]
        args, kwargs = tree.tree_unflatten([torch.device("cpu") if v == HERE else v for v in held], structure)
        result = function(*args, **kwargs)
        if function is torch.ops.aten._local_scalar_dense.default:
            LEFT.append(torch.tensor(result))
        assert all(value.shape == value.here.shape for value in given if isinstance(value, cls)), f"{function} resizes"
        leaves = torch.device("cpu") in given or (function in _COPIES[1:] and not isinstance(given[0], cls))
        if leaves:
            LEFT.append(result)
            return result
        changed = {id(inner): outer for inner, outer in zip(held, given, strict=True) if isinstance(outer, cls)}
        return tree.tree_map_only(Tensor, lambda part: changed[id(part)] if id(part) in changed else cls(part), result)


def _empty(size: Sequence[int], dtype: torch.dtype | None = None, *_: Any, **__: Any) -> Tensor:
    return Elsewhere(torch.empty(size, dtype=dtype))


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], dtype: torch.dtype | None = None, *_: Any, **__: Any
) -> Tensor:
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, *_: Any, **__: Any) -> Tensor:
    assert isinstance(target, Elsewhere)
    target.here.copy_(source)
    return target


def _arange(*bounds: int, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return Elsewhere(torch.arange(*bounds, dtype=dtype))


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("arange", _arange, "PrivateUse1")
_LIBRARY.impl("arange.start", _arange, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
