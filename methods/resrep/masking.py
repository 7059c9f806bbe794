"""The masks of ResRep, which cover the rows of smallest norm, as many as the target cost requires."""

from collections.abc import Callable, Sequence

import numpy as np


def lowest_rows(
    norms: Sequence[np.ndarray], macs: Callable[[np.ndarray], np.ndarray], allowed: float, limit: int
) -> list[np.ndarray]:
    """Choose the rows to mask: in ascending order of norm, until the remaining rows meet the target cost.

    The rows of all sites are ranked together. Among equal norms, the earlier site and then the lower row come first.
    The largest row of every site is not masked.

    Args:
        norms: For each site (width,).
        macs: Maps (n, sites) widths to (n,) costs.
        allowed: The target cost.
        limit: Maximum number of masked rows.

    Returns:
        For each site (width,) bool, True for masked rows.
    """
    widths = np.array([len(values) for values in norms])
    ends = np.cumsum(widths)
    site = np.repeat(np.arange(len(widths)), widths)
    row = np.arange(ends[-1]) - (ends - widths)[site]
    largest = np.array([values.argmax() for values in norms])[site] == row
    order = np.argsort(np.concatenate(list(norms)), kind="stable")
    order = order[~largest[order]]

    removed = np.zeros((len(order) + 1, len(widths)), dtype=np.int64)
    np.cumsum(site[order][:, None] == np.arange(len(widths)), axis=0, out=removed[1:])
    met = macs(widths - removed) <= allowed
    number = min(int(met.argmax()) if met.any() else len(order), max(limit, 0))
    masked = np.zeros(ends[-1], dtype=bool)
    masked[order[:number]] = True
    return np.split(masked, ends[:-1])
