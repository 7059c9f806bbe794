"""The group lasso over the rows or columns of compactors: its value, its gradient, its weight."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.method import Plan


def require_derivable(method: str, lasso: float | Literal["auto"], optimizer: str) -> None:
    """Refuse `auto` where it is not known how the optimiser would move a row.

    Raises:
        UserError: It is not.
    """
    if lasso == "auto" and optimizer != "sgd":
        raise UserError(f"{method}'s `lasso: auto` is derived for train.optimizer.type: sgd; give a number with others")


def lasso_strength(
    method: str,
    lasso: float | Literal["auto"],
    plan: Plan,
    start: float,
    vanish_at: float,
    own_momentum: float | None = None,
) -> float:
    """`lasso`, or for `auto` the value by which a free row goes from norm 1 to zero between two points of the training.

    Args:
        method: Whose, for messages.
        lasso: A number, or `auto`.
        plan: The training.
        start: Share of the training at which the row is left to the lasso.
        vanish_at: Share of the training at which it has vanished.
        own_momentum: For a method that moves its compactors itself, by SGD without weight decay.

    Raises:
        UserError: The learning rate is zero.
    """
    if lasso != "auto":
        return lasso
    momentum, decay = (plan.momentum, plan.weight_decay) if own_momentum is None else (own_momentum, 0.0)
    first = round(start * plan.steps)
    last = min(max(first + 1, round(vanish_at * plan.steps)), plan.steps)
    try:
        return auto_lasso([plan.learning_rate(step) for step in range(first, last)], momentum, decay)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{method}'s `lasso: auto` finds no value for this schedule ({error}): give a number, such as 0.004"
        ) from error


TINY = 1e-12
"""Below this norm a row's lasso gradient shrinks with the row; squares of smaller numbers leave float32 soon after."""


def group_norms(weight: Tensor, dim: int = 0) -> Tensor:
    """The norms of the rows, or of the columns, of a compactor.

    Args:
        weight: (out, in, 1, 1) or (out, in).
        dim: 0 for rows, one per output channel; 1 for columns, one per input channel.

    Returns:
        (out,) or (in,).
    """
    return torch.linalg.vector_norm(weight.movedim(dim, 0).flatten(1), dim=1)


def group_lasso(weight: Tensor, dim: int = 0) -> Tensor:
    """sum over rows of ||W_row||_2, a row being one output channel; a zero row has gradient zero.

    Args:
        weight: (out, in, 1, 1) or (out, in).
        dim: 1 for columns in place of rows.

    Returns:
        A scalar.
    """
    return group_norms(weight, dim).sum()


def lasso_gradient(weight: Tensor, floor: float | Tensor = TINY, dim: int = 0) -> Tensor:
    """W_row / max(||W_row||, floor): the gradient of `group_lasso`, without its jump at zero.

    The released rule divides by the norm itself, which is NaN at an exactly zero row; here such a row stays zero.

    Args:
        weight: (out, in, 1, 1) or (out, in).
        floor: The norm below which the pull weakens in proportion to the row, so that a step cannot overshoot zero: a
            number, or a tensor that broadcasts with (out,).
        dim: 1 for columns in place of rows.

    Returns:
        The shape of `weight`.
    """
    return weight / along(group_norms(weight, dim).clamp(min=floor), weight, dim)


@torch.no_grad()
def edit_gradients(
    weights: Iterable[Tensor],
    masks: Sequence[Tensor] | None,
    strength: float,
    floor: float | Tensor = TINY,
    dims: Sequence[int] | None = None,
) -> None:
    """grad <- mask * grad + strength * W / ||W||, row by row and in place, for every compactor.

    The lasso reaches every row; a masked row has nothing else left to oppose it.

    Args:
        weights: Compactor weights with gradients.
        masks: One (out,) per weight, 0 where the objective's gradient is reset; None resets none.
        strength: The lasso's weight.
        floor: As in `lasso_gradient`.
        dims: Per weight, 1 where columns take the place of rows; None is rows throughout.
    """
    for i, weight in enumerate(weights):
        dim = 0 if dims is None else dims[i]
        assert weight.grad is not None
        if masks is not None:
            weight.grad.mul_(along(masks[i], weight, dim))
        weight.grad.add_(lasso_gradient(weight, floor, dim), alpha=strength)


def auto_lasso(learning_rates: Sequence[float] | np.ndarray, momentum: float, weight_decay: float) -> float:
    """The lasso's weight under which a row that is masked with norm 1 reaches zero after these steps.

    Without the objective's gradient, a row only feels lasso and weight decay, both along itself, so its norm n follows
    one equation. SGD with momentum mu repeats a gradient g in later steps as g, mu g, mu^2 g, ... and so, starting from
    rest, moves in step i by eta_i * (1 + mu + ... + mu^i) times a gradient that changes slowly:

        dn / ds = -(lambda + delta * n),   s = sum over steps i of eta_i * (1 - mu^(i + 1)) / (1 - mu)
        n(s) = (1 + lambda / delta) * exp(-delta * s) - lambda / delta,   n(0) = 1

    and n(S) = 0, with S the sum over all steps, gives lambda = delta / (exp(delta * S) - 1), or 1 / S without
    weight decay. A constant lambda instead ties compression to the number of steps: the released 0.004 of CDD clears a
    masked row in 7 epochs of MSMT17 and would take 40 of CUB.

    Args:
        learning_rates: (steps,): the compactors' learning rate at every step, from the one that masks the row to the
            last before it has vanished.
        momentum: mu of SGD, 0 <= mu < 1.
        weight_decay: delta of SGD, applied to the compactors too.

    Raises:
        ValueError: The learning rates sum to nothing.
    """
    rates = np.asarray(learning_rates, dtype=np.float64)
    path = float(np.sum(rates * (1 - momentum ** np.arange(1, len(rates) + 1)))) / (1 - momentum)
    if path <= 0:
        raise ValueError("the learning rate is zero in all steps in which a row is to vanish")
    return weight_decay / math.expm1(weight_decay * path) if weight_decay > 0 else 1 / path


def along(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """`values`, one for each row (dim 0) or column (dim 1) of `weight`, in a shape that multiplies it."""
    return values.view([-1 if i == dim else 1 for i in range(weight.ndim)])
