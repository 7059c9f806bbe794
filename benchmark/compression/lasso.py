"""The group lasso on rows or columns of compactors: its gradient and its weight.

The group lasso of a compactor W is the sum of the L2 norms of its rows. Optimizing it moves whole rows to zero.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.method import Plan

TINY = 1e-12
"""Lower bound of the norms by which rows are divided. Squares of smaller numbers soon underflow in float32."""


def group_norms(weight: Tensor, dim: int = 0) -> Tensor:
    """Compute the L2 norms of the rows or columns of a compactor.

    Args:
        weight: (out, in, 1, 1) or (out, in).
        dim: 0 for rows, one per output channel; 1 for columns, one per input channel.

    Returns:
        (out,) or (in,).
    """
    return torch.linalg.vector_norm(weight.movedim(dim, 0).flatten(1), dim=1)


def lasso_gradient(weight: Tensor, floor: float = TINY, dim: int = 0) -> Tensor:
    """Compute W_row / max(||W_row||, floor), the gradient of the group lasso without its jump at zero.

    CDD's released code divides by the norm itself, which is NaN for a row of zeros. Here, such a row stays zero.

    Args:
        weight: (out, in, 1, 1) or (out, in).
        floor: Norm below which the gradient is proportional to the row, so that a step cannot overshoot zero.
        dim: 0 for rows, 1 for columns.

    Returns:
        The shape of `weight`.
    """
    return weight / per_group(group_norms(weight, dim).clamp(min=floor), weight, dim)


@torch.no_grad()
def edit_gradients(
    weights: Sequence[Tensor],
    strength: float,
    *,
    masks: Sequence[Tensor] = (),
    floor: float = TINY,
    dims: Sequence[int] = (),
) -> None:
    """Mask the gradient of the loss and add the gradient of the lasso, in place.

    For every row of every compactor: grad <- mask * grad + strength * W / ||W||. The lasso applies to masked rows too,
    and nothing else opposes it there.

    Args:
        weights: Weights of the compactors, with gradients.
        strength: Weight of the lasso.
        masks: For each compactor (out,), 0 where the gradient of the loss is reset; empty to reset none.
        floor: As in `lasso_gradient`.
        dims: For each compactor, 0 if its groups are rows and 1 if they are columns; empty if all are rows.
    """
    for i, weight in enumerate(weights):
        dim = dims[i] if dims else 0
        assert weight.grad is not None
        if masks:
            weight.grad.mul_(per_group(masks[i], weight, dim))
        weight.grad.add_(lasso_gradient(weight, floor, dim), alpha=strength)


def per_group(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Reshape values, one for each row (dim 0) or column (dim 1) of `weight`, so that they broadcast with it."""
    return values.view([-1 if i == dim else 1 for i in range(weight.ndim)])


def check_lasso(method: str, lasso: float | Literal["auto"], optimizer: str) -> None:
    """Check that the weight of the lasso can be derived for the optimizer.

    Args:
        method: Name of the method, for messages.
        lasso: A number, or `auto`.
        optimizer: "sgd", "adam" or "adamw".

    Raises:
        UserError: The weight is `auto`, and the optimizer is not SGD.
    """
    if lasso == "auto" and optimizer != "sgd":
        raise UserError(
            f"{method}: `lasso: auto` is derived for train.optimizer.type: sgd, not {optimizer}; set lasso to a number"
        )


def lasso_strength(
    method: str,
    lasso: float | Literal["auto"],
    plan: Plan,
    *,
    start: float,
    vanish_at: float,
    momentum: float | None = None,
    threshold: float | None = None,
) -> float:
    """Return the weight of the lasso.

    With `auto` it is the value at which the norm of a row without any other gradient goes from 1 to zero between two
    points of the training. If the gradient shrinks with the row near zero, this includes the steps that the row then
    needs to the threshold below which it is removed, or half of all steps if they are fewer than twice as many.

    Args:
        method: Name of the method, for messages.
        lasso: A number, or `auto`.
        plan: The settings of the training.
        start: Share of the training after which the row has no other gradient.
        vanish_at: Share of the training after which the row has vanished.
        momentum: For a method that moves its compactors itself, by SGD without weight decay: its momentum. None if the
            optimizer of the training moves them.
        threshold: Norm below which a row has vanished, for a method whose gradient shrinks with the row near zero.

    Raises:
        UserError: There is no such value, for example because the learning rate is zero.
    """
    if lasso != "auto":
        return lasso
    momentum, decay = (plan.momentum, plan.weight_decay) if momentum is None else (momentum, 0.0)
    first = round(start * plan.steps)
    last = min(max(first + 1, round(vanish_at * plan.steps)), plan.steps)
    rates = [plan.learning_rate(step) for step in range(first, last)]
    try:
        strength = auto_lasso(rates, momentum, decay)
        if threshold is not None:
            # Fewer steps need a stronger lasso, whose rows are faster when they come near zero. The last stretch
            # depends on the logarithm of their speed, so this settles at once.
            for _ in range(3):
                stretch = last_stretch(rates[-1] * strength / (1 - momentum), threshold, momentum)
                strength = auto_lasso(rates[: len(rates) - min(stretch, len(rates) // 2)], momentum, decay)
        if strength > torch.finfo(torch.float32).max:
            raise OverflowError("they are too small")
        return strength
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{method}: `lasso: auto` has no value for the learning rates of steps {first} to {last} ({error}); set "
            "lasso to a number, such as 0.004"
        ) from error


def last_stretch(speed: float, threshold: float, momentum: float) -> int:
    """Return the number of steps that a row needs near zero, where the gradient of the lasso is proportional to it.

    There, the row oscillates around zero and shrinks by a factor of sqrt(mu) per step. It begins with its last full
    step, that is with an amplitude of speed / sqrt(1 - mu).

    Args:
        speed: Change of the norm per step before: learning rate * lambda / (1 - mu).
        threshold: Norm below which the row has vanished.
        momentum: mu of SGD.
    """
    amplitude = speed / math.sqrt(1 - momentum)
    if amplitude <= threshold or momentum == 0:
        return 0
    return math.ceil(2 * math.log(threshold / amplitude) / math.log(momentum))


def auto_lasso(learning_rates: Sequence[float] | np.ndarray, momentum: float, weight_decay: float) -> float:
    """Compute the weight of the lasso at which a masked row of norm 1 reaches zero after the given steps.

    A masked row only has the gradients of the lasso and of weight decay. Both are parallel to the row, so its norm n
    follows one equation. SGD with momentum mu repeats a gradient g in later steps as g, mu g, mu^2 g, and so on.
    Starting at rest, step i therefore moves by eta_i * (1 + mu + ... + mu^i) times a gradient that changes slowly:

        dn / ds = -(lambda + delta * n),  s = sum over steps i of eta_i * (1 - mu^(i + 1)) / (1 - mu)

        n(s) = (1 + lambda / delta) * exp(-delta * s) - lambda / delta,  n(0) = 1

    With S the sum over all steps, n(S) = 0 gives lambda = delta / (exp(delta * S) - 1), or 1 / S without weight decay.

    A constant lambda would tie compression to the number of steps: 0.004, as in CDD's released code, removes a masked
    row within 7 epochs of MSMT17 and would need 40 epochs of CUB.

    Args:
        learning_rates: (steps,): learning rate eta of each step, from masking to vanishing.
        momentum: mu of SGD, 0 <= mu < 1.
        weight_decay: delta of SGD, which applies to the compactors too.

    Raises:
        ValueError: All learning rates are zero.
    """
    rates = np.asarray(learning_rates, dtype=np.float64)
    path = float(np.sum(rates * (1 - momentum ** np.arange(1, len(rates) + 1)))) / (1 - momentum)
    if path <= 0:
        raise ValueError("all learning rates are zero")
    return weight_decay / math.expm1(weight_decay * path) if weight_decay > 0 else 1 / path
