"""Cutting the queries so that memory does not grow with their number."""

from collections.abc import Iterator

CHUNK_BYTES = 40 * 2**20
"""What one chunk may occupy. Two are alive at a time: scores, and the candidates picked from them."""


def chunks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Consecutive slices that cover `rows`, each of as many rows of `row_bytes` as fit in a chunk, and at least one."""
    step = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
