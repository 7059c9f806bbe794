"""The sum of several methods: `--method kd+rkd`."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.method import Ceilings, Method, Needs, Plan, Progress, RecipePlan, as_tuple
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.surgery import ChannelSelection
from benchmark.utils.mappings import merge


class Combination(Method):
    """The sum of the loss terms of several methods, each with its own weights.

    At most one of the methods compresses the student. It prepares first, so that the others see the edited student.

    Args:
        arguments: The arguments of each method, by its name: `--set method.rkd.angle_weight=10`.
    """

    kind: ClassVar[str] = "combination"

    def __init__(self, **arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.members = {name: part(**arguments.get(name, {})) for name, part in self.parts.items()}
        self.methods = nn.ModuleDict(self.members)
        self._ordered = sorted(self.members.values(), key=lambda method: not method.compresses)
        self.needs = Needs(teacher=False)
        for method in self._ordered:
            self.needs = self.needs | method.needs
        self.budget = next((method.budget for method in self._ordered if method.budget is not None), None)
        self._gather()

    def _gather(self) -> None:
        """Collect the attributes that `prepare` may change."""
        self.aligned = any(method.aligned for method in self._ordered)
        self.student_taps = list(dict.fromkeys(tap for method in self._ordered for tap in method.student_taps))
        self.teacher_taps = list(dict.fromkeys(tap for method in self._ordered for tap in method.teacher_taps))

    def check(self, student: Embedder, teacher: Embedder | Any, plan: RecipePlan) -> None:
        for method in self._ordered:
            method.check(student, _received(method, teacher), plan)

    def prepare(self, student: Embedder, teacher: Embedder | Any, plan: Plan) -> None:
        for method in self._ordered:
            method.prepare(student, _received(method, teacher), plan)
        self._gather()

    def loss(self, student: Features, teacher: Features | Any, batch: Batch) -> dict[str, Tensor]:
        return {
            term if term.startswith(name) else f"{name}_{term}": value
            for name, method in self.members.items()
            for term, value in method.loss(student, _received(method, teacher), batch).items()
        }

    def after_backward(self, student: Embedder) -> None:
        for method in self._ordered:
            method.after_backward(student)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        return [change for method in self._ordered for change in method.after_epoch(student, progress)]

    def structure(self) -> dict[str, Any]:
        return {name: method.structure() for name, method in self.members.items()}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        for name, method in self.members.items():
            method.restore(student, structure[name])

    def remembered_steps(self) -> int:
        return max(method.remembered_steps() for method in self._ordered)

    def remember(self, teacher: Features | Any, batch: Batch, ago: int) -> None:
        for method in self._ordered:
            if ago <= method.remembered_steps():
                method.remember(_received(method, teacher), batch, ago)

    def report(self, student: Embedder) -> dict[str, float]:
        return {key: value for method in self._ordered for key, value in method.report(student).items()}

    def progress_line(self, report: Mapping[str, float]) -> str:
        return "  ".join(line for method in self._ordered if (line := method.progress_line(report)))

    @classmethod
    def plots(cls, metrics: Sequence[Mapping[str, float]]) -> dict[str, str]:
        return {name: svg for part in cls.parts.values() for name, svg in part.plots(metrics).items()}

    def minimal_student(self, student: Embedder) -> Embedder:
        return self._ordered[0].minimal_student(student)

    def ceilings(self, student: Embedder, image_size: tuple[int, int]) -> Ceilings | None:
        return self._ordered[0].ceilings(student, image_size)

    def compact(self, student: Embedder) -> Embedder:
        for method in self._ordered:
            student = method.compact(student)
        return student


def _received(method: Method, teacher: Any) -> Any:
    """Return what a member receives of the teachers that the combination has received."""
    return method.needs.received(as_tuple(teacher))


def combine(name: str, parts: Mapping[str, type[Method]]) -> type[Combination]:
    """Create the class of a combination.

    Args:
        name: The combination's name, for example "kd+rkd".
        parts: The combined methods by name, in the order of the name.

    Raises:
        UserError: The methods cannot be combined.
    """
    if "none" in parts:
        raise UserError(f"method {name!r}: none has no loss terms; remove it")
    compressing = [part for part, method in parts.items() if method.compresses]
    if len(compressing) > 1:
        raise UserError(f"method {name!r}: {' and '.join(compressing)} both compress the student; keep one")
    recipe: dict[str, Any] = {}
    for method in parts.values():
        recipe = merge(recipe, method.recipe)
    attributes = {
        "name": name,
        "parts": dict(parts),
        "recipe": recipe,
        "compresses": bool(compressing),
        "__doc__": f"The sum of {' and '.join(parts)}, each with its own weights.\n\n"
        "`benchmark show METHOD` describes each of them.",
    }
    return type(name, (Combination,), attributes)
