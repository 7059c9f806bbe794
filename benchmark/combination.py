"""Several methods at once: `--method kd+rkd`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.method import Method, Needs, Plan, Progress
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.surgery import ChannelSelection
from benchmark.utils.mappings import merge


class Combination(Method):
    """The sum of several methods' terms, each with its own weights.

    At most one of the methods may compress the student; it prepares first, so that the others see the student as it
    starts.

    Args:
        arguments: For each method by name, its arguments: `--set method.rkd.angle_weight=10`.
    """

    kind: ClassVar[str] = "combination"
    combined: ClassVar[Mapping[str, type[Method]]]
    """The methods, in the order of their names in the combination's."""

    def __init__(self, **arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.members = {name: part(**arguments.get(name, {})) for name, part in self.combined.items()}
        self.methods = nn.ModuleDict(self.members)
        self.needs = Needs(teacher=False)
        for method in self._all():
            self.needs = self.needs | method.needs
        self.budget = next((method.budget for method in self._all() if method.budget is not None), None)
        self._gather()

    def _all(self) -> list[Method]:
        """The methods, the one that compresses first."""
        return sorted(self.members.values(), key=lambda method: method.kind != "pruning")

    def _gather(self) -> None:
        """Take over what `prepare` of a method may change."""
        self.aligned = any(method.aligned for method in self._all())
        self.student_taps = list(dict.fromkeys(tap for method in self._all() for tap in method.student_taps))
        self.teacher_taps = list(dict.fromkeys(tap for method in self._all() for tap in method.teacher_taps))

    def check(self, student: Embedder, teacher: Embedder, image_size: tuple[int, int]) -> None:
        for method in self._all():
            method.check(student, teacher, image_size)

    def check_training(self, optimizer: str, batch_size: int) -> None:
        for method in self._all():
            method.check_training(optimizer, batch_size)

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        for method in self._all():
            method.prepare(student, teacher, plan)
        self._gather()

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {
            term if term.startswith(name) else f"{name}_{term}": value
            for name, method in self.members.items()
            for term, value in method.loss(student, teacher, batch).items()
        }

    def after_backward(self, student: Embedder) -> None:
        for method in self._all():
            method.after_backward(student)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        return [change for method in self._all() for change in method.after_epoch(student, progress)]

    def structure(self) -> dict[str, Any]:
        return {name: method.structure() for name, method in self.members.items()}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        for name, method in self.members.items():
            method.restore(student, structure[name])

    def report(self, student: Embedder) -> dict[str, float]:
        return {key: value for method in self._all() for key, value in method.report(student).items()}

    def minimal_student(self, student: Embedder) -> Embedder | None:
        return self._all()[0].minimal_student(student)

    def compact(self, student: Embedder) -> Embedder:
        for method in self._all():
            student = method.compact(student)
        return student


def combine(name: str, parts: Mapping[str, type[Method]]) -> type[Combination]:
    """The class of the combination called `name`, for example "kd+rkd".

    Raises:
        UserError: The methods do not go together.
    """
    baselines = [part for part, method in parts.items() if method.kind == "none"]
    if baselines:
        raise UserError(f"method {name!r}: {baselines[0]} adds nothing; leave it out")
    compressing = [part for part, method in parts.items() if method.kind == "pruning"]
    if len(compressing) > 1:
        raise UserError(f"method {name!r}: {' and '.join(compressing)} each decide on the student's size; keep one")
    recipe: dict[str, Any] = {}
    for method in parts.values():
        recipe = merge(recipe, method.recipe)
    doc = f"The sum of {' and '.join(parts)}, each with its own weights.\n\nSee `benchmark show` of each."
    return type(name, (Combination,), {"combined": dict(parts), "recipe": recipe, "__doc__": doc})
