"""A device that every machine has, for tests of code that runs on devices other than the CPU.

Its tensors are in the CPU's memory. But as on a GPU, no operation mixes them with tensors of the CPU (scalars excepted)
and NumPy cannot read them. What is copied back to the CPU is recorded in `COPIED_BACK`. Importing this module registers
the device with torch for the whole process.
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


_setup_privateuseone_for_python_backend("fake", _Module())
FAKE = torch.device("fake:0")
COPIED_BACK: list[Tensor] = []
"""Tensors copied to the CPU, scalars included."""
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class FakeDeviceTensor(Tensor):
    """A tensor on the fake device; `data_on_cpu` holds its values."""

    data_on_cpu: Tensor

    @staticmethod
    def __new__(cls, data: Tensor) -> "FakeDeviceTensor":
        wrapper = Tensor._make_wrapper_subclass(cls, data.shape, data.stride(), dtype=data.dtype, device=FAKE)
        wrapper.data_on_cpu = data
        return wrapper

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        values, structure = tree.tree_flatten((args, kwargs or {}))
        for value in values:
            if isinstance(value, Tensor) and not isinstance(value, cls) and value.ndim and function not in _COPIES:
                raise RuntimeError(f"{function} of tensors on two devices")
        unwrapped = [value.data_on_cpu if isinstance(value, cls) else value for value in values]
        on_cpu = [torch.device("cpu") if value == FAKE else value for value in unwrapped]
        args, kwargs = tree.tree_unflatten(on_cpu, structure)
        result = function(*args, **kwargs)
        if function is torch.ops.aten._local_scalar_dense.default:
            COPIED_BACK.append(torch.tensor(result))
        wrappers = [value for value in values if isinstance(value, cls)]
        assert all(value.shape == value.data_on_cpu.shape for value in wrappers), f"{function} resizes"
        copies_to_cpu = torch.device("cpu") in values or (function in _COPIES[1:] and not isinstance(values[0], cls))
        if copies_to_cpu:
            COPIED_BACK.append(result)
            return result
        known = {id(data): value for data, value in zip(unwrapped, values, strict=True) if isinstance(value, cls)}
        return tree.tree_map_only(Tensor, lambda part: known[id(part)] if id(part) in known else cls(part), result)


def _empty(size: Sequence[int], dtype: torch.dtype | None = None, *_: Any, **__: Any) -> Tensor:
    return FakeDeviceTensor(torch.empty(size, dtype=dtype))


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], dtype: torch.dtype | None = None, *_: Any, **__: Any
) -> Tensor:
    return FakeDeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, *_: Any, **__: Any) -> Tensor:
    assert isinstance(target, FakeDeviceTensor)
    target.data_on_cpu.copy_(source)
    return target


def _arange(*bounds: int, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return FakeDeviceTensor(torch.arange(*bounds, dtype=dtype))


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("arange", _arange, "PrivateUse1")
_LIBRARY.impl("arange.start", _arange, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
