"""The network of the epoch with the highest validation mAP."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Selection:
    """The epoch whose network is deployed, and its mAP on the validation images as a fraction."""

    epoch: int
    mAP: float


class BestEpoch:
    """The weights of the epoch with the highest validation mAP, among the epochs with the student's final structure.

    When the structure changes, the earlier epochs are forgotten, because their networks have another cost. Of equal
    epochs the first is kept.

    Args:
        state: The `state` to continue from; None to begin.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state = state
        """Epoch, mAP, and the states of student and method, as checkpoints contain them; None before a validation."""

    @property
    def selection(self) -> Selection | None:
        """The best epoch so far; None before the first validation."""
        return None if self.state is None else Selection(self.state["epoch"], self.state["mAP"])

    def consider(self, student: nn.Module, method: nn.Module, epoch: int, mAP: float) -> None:
        """Keep a copy of the weights, in the memory of the host, if they are the best so far."""
        states = {"student": student.state_dict(), "method": method.state_dict()}
        known = self.state
        if known is None or _shapes(known["student"]) != _shapes(states["student"]) or mAP > known["mAP"]:
            self.state = {"epoch": epoch, "mAP": mAP, **{part: _copied(state) for part, state in states.items()}}

    def restore(self, student: nn.Module, method: nn.Module) -> None:
        """Load the best weights into the networks; after a validation they have the current structure."""
        if self.state is not None:
            student.load_state_dict(self.state["student"], strict=True)
            method.load_state_dict(self.state["method"], strict=True)


def is_state(value: dict[str, Any] | None, last: int) -> bool:
    """Whether a dictionary or None from a checkpoint of epoch `last` is the state of a `BestEpoch`."""
    return value is None or (
        value.keys() == {"epoch", "mAP", "student", "method"}
        and type(value["epoch"]) is int
        and 1 <= value["epoch"] <= last
        and type(value["mAP"]) is float
        and math.isfinite(value["mAP"])
        and isinstance(value["student"], dict)
        and isinstance(value["method"], dict)
    )


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    # The extra state of a method need not be a tensor.
    return {
        name: value.to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.shape for name, value in state.items()}
