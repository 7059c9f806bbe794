"""Map functions that consist of torch operators over items, with threads."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


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
