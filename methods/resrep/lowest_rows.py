"""ResRep's masks: the rows of smallest norm in the whole network."""

from collections.abc import Callable, Sequence

import numpy as np


def lowest_rows(
    norms: Sequence[np.ndarray], macs: Callable[[np.ndarray], np.ndarray], allowed: float, limit: int
) -> list[np.ndarray]:
    """The rows to mask: in ascending order of norm, until the rest costs no more than is allowed.

    All places are ranked together; among equal norms the earlier place and the lower row come first. One row of every
    place, its largest, is not masked.

    Args:
        norms: Per place (width,).
        macs: (n, places) widths -> (n,) cost.
        allowed: The cost to reach.
        limit: Rows to mask at most.

    Returns:
        Per place (width,) bool, True where a row is masked.
    """
    widths = np.array([len(values) for values in norms])
    ends = np.cumsum(widths)
    place = np.repeat(np.arange(len(widths)), widths)
    row = np.arange(ends[-1]) - (ends - widths)[place]
    spared = np.array([values.argmax() for values in norms])[place] == row
    order = np.argsort(np.concatenate(list(norms)), kind="stable")
    order = order[~spared[order]]

    gone = np.zeros((len(order) + 1, len(widths)), dtype=np.int64)
    np.cumsum(place[order][:, None] == np.arange(len(widths)), axis=0, out=gone[1:])
    enough = macs(widths - gone) <= allowed
    number = min(int(enough.argmax()) if enough.any() else len(order), max(limit, 0))
    masked = np.zeros(ends[-1], dtype=bool)
    masked[order[:number]] = True
    return np.split(masked, ends[:-1])
