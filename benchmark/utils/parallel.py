"""Map functions over items with threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

import torch

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


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """Return `function(item)` for every item, in order, computed by a `TorchThreads` pool of at most `workers`."""
    with TorchThreads(min(workers, len(items))) as pool:
        return pool.map(function, items)


class TorchThreads:
    """A pool of threads that divide torch's intra-operator threads among them; a context manager.

    For functions that consist of torch operators. Each thread inherits the caller's gradient and inference modes.

    Args:
        workers: Number of threads. With less than 2, the calling thread does the work.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._torch_threads = torch.get_num_threads()

    def __enter__(self) -> Self:
        if self._workers > 1:
            # The same number for every thread: torch.get_num_threads() returns what any thread has set last.
            share = -(-self._torch_threads // self._workers)
            self._pool = ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(share,))
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            torch.set_num_threads(self._torch_threads)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return `function(item)` for every item, in order, once all of them are done."""
        if self._pool is None:
            return [function(item) for item in items]
        inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def in_callers_mode(item: Item) -> Result:
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                return function(item)

        return list(self._pool.map(in_callers_mode, items))
