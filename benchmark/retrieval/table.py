"""What is measured of all queries, gathered a chunk at a time."""

from threading import Lock

from torch import Tensor


class Table:
    """Columns as long as the list of queries, into which chunks of them write.

    Small results kept one by one would come to lie between the large chunks in memory, and break it up.

    Args:
        queries: How many.
    """

    def __init__(self, queries: int) -> None:
        self.columns: dict[str, Tensor] = {}
        """By name, (Q,) or (Q, K)."""
        self._queries = queries
        self._lock = Lock()

    def write(self, rows: slice, **values: Tensor) -> None:
        """Set these rows of some columns. From any thread."""
        with self._lock:
            for name, value in values.items():
                if name not in self.columns:
                    self.columns[name] = value.new_empty(self._queries, *value.shape[1:])
                self.columns[name][rows] = value
