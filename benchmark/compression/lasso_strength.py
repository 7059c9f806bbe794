"""The lasso's weight for a training."""

from typing import Literal

from benchmark.errors import UserError
from benchmark.method import Plan

from .lasso import auto_lasso


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
    try:
        return auto_lasso(plan.learning_rates, first, max(first + 1, round(vanish_at * plan.steps)), momentum, decay)
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{method}'s `lasso: auto` finds no value for this schedule ({error}): give a number, such as 0.004"
        ) from error
