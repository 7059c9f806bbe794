"""A benchmark suite for distillation-based image retrieval.

Run one experiment, from training to its record::

    from benchmark import run

    record = run("kd", "glyphs")
    print(record.scores.symmetric.mAP)

Add a method: a class in a Python file, named with `--plugin` or placed in `methods/`::

    from benchmark import METHODS, Batch, Features, Method

    @METHODS.register_module("mine")
    class Mine(Method):
        def loss(self, student: Features, teacher: Features, batch: Batch): ...

Score embeddings of any origin with `evaluate`, and load a trained student with `load_student`.

All names listed here are imported on first use, so that `import benchmark` does not import torch.
"""

# `benchmark.methods` and `benchmark.datasets` are the folders `methods/` and `datasets/` at the top of the repository.
# Installing maps them into this package; in a checkout `_CheckoutFinder` below finds them. They are not top-level
# packages because a package named `datasets` would overwrite Hugging Face's in the same environment.

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmark.utils.lazy import import_name

if TYPE_CHECKING:
    __version__: str
    from benchmark.data.batch import Batch as Batch
    from benchmark.data.card import Card as Card
    from benchmark.data.retrieval_dataset import RetrievalDataset as RetrievalDataset
    from benchmark.data.samples import Sample as Sample
    from benchmark.deployment.student import Student as Student
    from benchmark.deployment.student import load_student as load_student
    from benchmark.errors import UserError as UserError
    from benchmark.experiment.run import run as run
    from benchmark.method import Budget as Budget
    from benchmark.method import Method as Method
    from benchmark.method import Needs as Needs
    from benchmark.method import Plan as Plan
    from benchmark.method import Progress as Progress
    from benchmark.method import Range as Range
    from benchmark.method import RecipePlan as RecipePlan
    from benchmark.model.embedder import Embedder as Embedder
    from benchmark.model.features import Features as Features
    from benchmark.model.surgery import ChannelSelection as ChannelSelection
    from benchmark.registry import DATASETS as DATASETS
    from benchmark.registry import METHODS as METHODS
    from benchmark.registry import TEACHERS as TEACHERS
    from benchmark.registry import load_plugin as load_plugin
    from benchmark.results.record import Record as Record
    from benchmark.retrieval import Embeddings as Embeddings
    from benchmark.retrieval import Protocol as Protocol
    from benchmark.retrieval import Scores as Scores
    from benchmark.retrieval import evaluate as evaluate

_MODULES = {
    "DATASETS": "registry",
    "METHODS": "registry",
    "Batch": "data.batch",
    "Budget": "method",
    "Card": "data.card",
    "ChannelSelection": "model.surgery",
    "Embedder": "model.embedder",
    "Embeddings": "retrieval",
    "Features": "model.features",
    "Method": "method",
    "Needs": "method",
    "Plan": "method",
    "Progress": "method",
    "Protocol": "retrieval",
    "Range": "method",
    "RecipePlan": "method",
    "Record": "results.record",
    "RetrievalDataset": "data.retrieval_dataset",
    "Sample": "data.samples",
    "Scores": "retrieval",
    "Student": "deployment.student",
    "TEACHERS": "registry",
    "UserError": "errors",
    "evaluate": "retrieval",
    "load_plugin": "registry",
    "load_student": "deployment.student",
    "run": "experiment.run",
}
"""Public names, and the modules within this package that define them."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from benchmark.version import package_version

        return package_version()
    return import_name(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _CheckoutFinder:
    """Find `benchmark.methods` and `benchmark.datasets` next to this package's folder, in a checkout."""

    root = str(Path(__file__).resolve().parents[1])
    names = frozenset({f"{__name__}.methods", f"{__name__}.datasets"})

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [cls.root]) if name in cls.names else None


if not (Path(__file__).parent / "methods").is_dir():  # a checkout, not an installed copy
    sys.meta_path.append(_CheckoutFinder)
