"""CDD's group lasso over the rows of the compactors: its value, its gradient, its weight."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

TINY = 1e-12
"""Below this norm a row's lasso gradient shrinks with the row; squares of smaller numbers leave float32 soon after."""


def group_lasso(weight: Tensor) -> Tensor:
    """sum over rows of ||W_row||_2, a row being one output channel; a zero row has gradient zero.

    Args:
        weight: (out, in, 1, 1) or (out, in).

    Returns:
        A scalar.
    """
    return _row_norms(weight).sum()


def lasso_gradient(weight: Tensor, floor: float | Tensor = TINY) -> Tensor:
    """W_row / max(||W_row||, floor): the gradient of `group_lasso`, without its jump at zero.

    The released rule divides by the norm itself, which is NaN at an exactly zero row; here such a row stays zero.

    Args:
        weight: (out, in, 1, 1) or (out, in).
        floor: The norm below which the pull weakens in proportion to the row, so that a step cannot overshoot zero: a
            number, or a tensor that broadcasts with (out,).

    Returns:
        The shape of `weight`.
    """
    norms = _row_norms(weight).clamp(min=floor)
    return weight / norms.view(-1, *[1] * (weight.ndim - 1))


@torch.no_grad()
def edit_gradients(
    weights: Iterable[Tensor], masks: Sequence[Tensor] | None, strength: float, floor: float | Tensor = TINY
) -> None:
    """grad <- mask * grad + strength * W / ||W||, row by row and in place, for every compactor.

    The lasso reaches every row; a masked row has nothing else left to oppose it.

    Args:
        weights: Compactor weights with gradients.
        masks: One (out,) per weight, 0 where the objective's gradient is reset; None resets none.
        strength: The lasso's weight.
        floor: As in `lasso_gradient`.
    """
    for i, weight in enumerate(weights):
        assert weight.grad is not None
        if masks is not None:
            weight.grad.mul_(masks[i].view(-1, *[1] * (weight.ndim - 1)))
        weight.grad.add_(lasso_gradient(weight, floor), alpha=strength)


def auto_lasso(
    learning_rates: np.ndarray, start_step: int, vanish_step: int, momentum: float, weight_decay: float
) -> float:
    """The lasso's weight under which a row masked at `start_step` with norm 1 reaches zero at `vanish_step`.

    Without the objective's gradient, a row only feels lasso and weight decay, both along itself, so its norm n follows
    one equation. SGD with momentum mu repeats a gradient g in later steps as g, mu g, mu^2 g, ... and so, starting from
    rest, moves in step i by eta_i * (1 + mu + ... + mu^i) times a gradient that changes slowly:

        dn / ds = -(lambda + delta * n),   s = sum over steps i of eta_i * (1 - mu^(i + 1)) / (1 - mu)
        n(s) = (1 + lambda / delta) * exp(-delta * s) - lambda / delta,   n(0) = 1

    and n(S) = 0, with S the sum up to `vanish_step`, gives lambda = delta / (exp(delta * S) - 1), or 1 / S without
    weight decay. A constant lambda instead ties compression to the number of steps: the released 0.004 clears a masked
    row in 7 epochs of MSMT17 and would take 40 of CUB.

    Args:
        learning_rates: (steps,): the compactors' learning rate at every step.
        start_step: First step of the compression, counted from 0.
        vanish_step: The step before which the row has vanished.
        momentum: mu of SGD, 0 <= mu < 1.
        weight_decay: delta of SGD, applied to the compactors too.

    Raises:
        ValueError: The learning rates between the two steps sum to nothing.
    """
    rates = np.asarray(learning_rates[start_step:vanish_step], dtype=np.float64)
    path = float(np.sum(rates * (1 - momentum ** np.arange(1, len(rates) + 1)))) / (1 - momentum)
    if path <= 0:
        raise ValueError(f"no learning rate between steps {start_step} and {vanish_step} to move a row by")
    return weight_decay / math.expm1(weight_decay * path) if weight_decay > 0 else 1 / path


def _row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight.flatten(1), dim=1)
