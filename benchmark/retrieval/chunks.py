"""Cutting lists so that memory does not grow with their length."""

from collections.abc import Iterator

CHUNK_BYTES = 31 * 2**20
"""What one chunk may occupy: the scores of some queries, or a part of a gallery.

Above 32 MiB, glibc gives memory back to the system with every tensor, and takes it again page by page.
"""


def chunks(rows: int, row_bytes: int, workers: int = 1) -> Iterator[slice]:
    """Consecutive slices that cover `rows`, each of as many rows of `row_bytes` as fit in a chunk, and at least one.

    For several workers there are as many slices for each; those that are worked on at once take some two chunks, and
    three at the most.
    """
    step = max(1, CHUNK_BYTES * min(2, workers) // (row_bytes * workers))
    if workers > 1:
        count = max(1, round(rows / (step * workers))) * workers
        step = max(1, -(-rows // max(1, count)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
