"""Cutting lists so that memory does not grow with their length."""

from collections.abc import Iterator

CHUNK_BYTES = 31 * 2**20
"""What one chunk may occupy: the scores of some queries, or a part of a gallery.

Above 32 MiB, glibc gives memory back to the system with every tensor, and takes it again page by page.
"""
LABEL_BYTES = 256
"""What is made of an entry's label while labels are searched."""


def chunks(rows: int, row_bytes: int, workers: int = 1, shared: int | None = None) -> Iterator[slice]:
    """Consecutive slices of about one length that cover `rows`.

    Args:
        rows: How many there are.
        row_bytes: What one occupies.
        workers: How many slices are worked on at once: there are as many for each.
        shared: How many chunks these slices may occupy together; one for a single worker, otherwise two, where None.
    """
    step = max(1, CHUNK_BYTES * (shared or min(2, workers)) // (row_bytes * workers))
    step = -(-rows // (workers * -(-rows // (step * workers)))) if rows else 1
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
