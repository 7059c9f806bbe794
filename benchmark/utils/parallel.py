"""Map functions over items with threads, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from benchmark.utils.machine import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOKAHEAD = 8
"""Items per thread that `parallel_imap` starts before their results are consumed. Bounds its memory."""


def parallel_imap(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` for every item, in order and lazily, computed by one thread per core.

    For functions that release Python's global interpreter lock, such as image decoding.
    """
    threads = cores()
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > _LOOKAHEAD * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # after an error, or when the consumer stops early
                future.cancel()
