"""The base class of methods that compress the student."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from benchmark.errors import UserError
from benchmark.method import Budget, Method
from benchmark.plots.compression import compression_svg


class CompressionMethod(Method):
    """A method that narrows the residual blocks of a student that starts with the teacher's architecture.

    `report` of a subclass returns at least "channels", "parameters" and "macs".
    """

    kind: ClassVar[str] = "pruning"
    compresses: ClassVar[bool] = True
    recipe: ClassVar[Mapping[str, Any]] = {"student": {"like": "teacher"}}

    def progress_line(self, report: Mapping[str, float]) -> str:
        size = f"{report['parameters'] / 1e6:.2f} M parameters  {report['macs'] / 1e6:.1f} M MACs"
        return f"channels {report['channels']:.0f}  {size}"

    @classmethod
    def plots(cls, metrics: Sequence[Mapping[str, float]]) -> dict[str, str]:
        return {"compression.svg": compression_svg(metrics)}


def budget_from(method: str, target_macs: float | None, target_params: float | None) -> Budget | None:
    """Return the budget that a method's arguments describe.

    Args:
        method: Name of the method, for messages.
        target_macs: MACs of the student as a fraction of the teacher's.
        target_params: Parameters of the student as a fraction of the teacher's.

    Raises:
        UserError: Both targets are set.
    """
    if target_macs is not None and target_params is not None:
        raise UserError(
            f"{method}: target_macs and target_params are both set; switch one off, as in --set method.target_macs=null"
        )
    if target_macs is not None:
        return Budget("macs", target_macs)
    return None if target_params is None else Budget("parameters", target_params)
