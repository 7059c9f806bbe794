"""Chunks of lists, so that the memory of an evaluation does not grow with the length of its lists."""

from collections.abc import Iterator

CHUNK_BYTES = 31 * 2**20
"""Maximum bytes of one chunk: the scores of some queries, or a part of a gallery.

Just below 32 MiB. Above that, glibc returns memory to the system with every freed tensor, and has to map it again page
by page.
"""
LABEL_BYTES = 256
"""Bytes per entry that a label lookup allocates."""


def chunks(rows: int, row_bytes: int, workers: int = 1, max_chunks: int | None = None) -> Iterator[slice]:
    """Yield consecutive slices of about equal length that cover `rows`.

    Args:
        rows: Number of rows.
        row_bytes: Bytes per row.
        workers: Number of slices processed at the same time. The number of slices is a multiple of it, where there are
            enough rows.
        max_chunks: Number of chunks of `CHUNK_BYTES` that the slices processed at the same time may occupy together. By
            default 1 for a single worker, otherwise 2.
    """
    step = max(1, CHUNK_BYTES * (max_chunks or min(2, workers)) // (row_bytes * workers))
    step = -(-rows // (workers * -(-rows // (step * workers)))) if rows else 1
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
