"""The base class of methods that compress the student."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from benchmark.compression.width_cost import PrunedChannels, WidthCost
from benchmark.errors import UserError
from benchmark.method import Budget, Ceilings, Method, Plan, RecipePlan
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import deployed_size, inner_widths, narrowed_copy
from benchmark.plots.compression import compression_svg


class CompressionMethod(Method):
    """A method that narrows the residual blocks of a student with the teacher's architecture.

    `report` returns at least "channels", and the "parameters" and "macs" of the deployed network, whose batch norms are
    folded.
    """

    kind: ClassVar[str] = "pruning"
    compresses: ClassVar[bool] = True
    recipe: ClassVar[Mapping[str, Any]] = {"student": {"like": "teacher"}}

    cost: WidthCost
    """Cost of the deployed student by the widths of `channels`; set in `prepare`."""

    def channels(self, network: Embedder) -> Sequence[PrunedChannels]:
        """Return the channels of a network that the method prunes, in order of execution."""
        return inner_widths(network)

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        self.channels(student)

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        self.image_size = plan.image_size
        self.cost = WidthCost(student, self.channels(student), plan.image_size)
        # Without a teacher, the uncompressed student takes its place, because it has the teacher's architecture.
        self.reference = deployed_size(teacher or student, plan.image_size)

    def report(self, student: Embedder) -> dict[str, float]:
        widths = [channels.width for channels in self.channels(student)]
        size = self.cost.size(widths)
        return {"channels": sum(widths), "parameters": size.parameters, "macs": size.macs}

    def progress_line(self, report: Mapping[str, float]) -> str:
        size = f"{report['parameters'] / 1e6:.2f} M parameters  {report['macs'] / 1e6:.1f} M MACs"
        return f"channels {report['channels']:.0f}  {size}"

    @classmethod
    def plots(cls, metrics: Sequence[Mapping[str, float]]) -> dict[str, str]:
        return {"compression.svg": compression_svg(metrics)}

    def reset_widths(self, widths: Sequence[int]) -> Sequence[int] | None:
        """Return the smallest widths that resetting gradients alone leads to; None if it sets no limit.

        Args:
            widths: The widths before compression.
        """
        return None

    def ceilings(self, student: Embedder, image_size: tuple[int, int]) -> Ceilings | None:
        cost = WidthCost(student, self.channels(student), image_size)
        reset = self.reset_widths(cost.full)
        return Ceilings(
            full=cost.size(cost.full),
            architecture=cost.size([1] * len(cost.full)),
            reset=None if reset is None else cost.size(reset),
        )

    def minimal_student(self, student: Embedder) -> Embedder:
        return narrowed_copy(student, [1] * len(inner_widths(student)))


def budget_from(method: str, target_macs: float | None, target_params: float | None) -> Budget | None:
    """Return the budget that the arguments of a method describe.

    Args:
        method: Name of the method, for messages.
        target_macs: MACs of the student as a fraction of the teacher's.
        target_params: Parameters of the student as a fraction of the teacher's.

    Raises:
        UserError: Both targets are set.
    """
    if target_macs is not None and target_params is not None:
        raise UserError(
            f"{method}: target_macs ({target_macs}) and target_params ({target_params}) are both set; switch one off, "
            "as in --set method.target_macs=null"
        )
    if target_macs is not None:
        return Budget("macs", target_macs)
    return None if target_params is None else Budget("parameters", target_params)
