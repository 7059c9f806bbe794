"""A benchmark suite for distillation-based image retrieval.

`benchmark.methods` and `benchmark.datasets` are the folders `methods/` and `datasets/` at the top of the repository.
Installing maps them into the package; in a bare checkout the finder below does. They are not top-level packages because
a package named `datasets` would overwrite Hugging Face's in the same environment.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.model.serialize import load_student as load_student

__version__ = "0.1.0"


class _Checkout:
    """Finds `benchmark.methods` and `benchmark.datasets` beside this folder."""

    root = str(Path(__file__).resolve().parents[1])
    names = frozenset({f"{__name__}.methods", f"{__name__}.datasets"})

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [cls.root]) if name in cls.names else None


if not (Path(__file__).parent / "methods").is_dir():  # a checkout, not an installed copy
    sys.meta_path.append(_Checkout)


def __getattr__(name: str) -> Any:
    """Import `load_student` (and with it torch) only when it is asked for."""
    if name == "load_student":
        from benchmark.model.serialize import load_student

        return load_student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
