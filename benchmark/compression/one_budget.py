"""The budget that a method's arguments name."""

from benchmark.errors import UserError
from benchmark.method import Budget


def one_budget(method: str, macs: float | None, parameters: float | None) -> Budget | None:
    """The budget from `target_macs` and `target_params`, of which at most one may be given.

    Raises:
        UserError: Both are.
    """
    if macs is not None and parameters is not None:
        raise UserError(
            f"{method}: target_macs and target_params are both set; switch one off, as in --set method.target_macs=null"
        )
    if macs is not None:
        return Budget("macs", macs)
    return None if parameters is None else Budget("parameters", parameters)
