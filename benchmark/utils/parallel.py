"""Threads that work on many items."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 8
"""Items per thread that are begun before their result is asked for: memory does not grow with the number of items."""


def parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in the order of the items. For what leaves the interpreter's lock, such as decoding by Pillow."""
    threads = cores()
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # an error, or the caller has had enough
                future.cancel()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_MOST = 4
"""Items at a time: with more, chunks would take much memory, or be too small for a fast product."""


def workers_for(device: torch.device, precision: str) -> int:
    """How many items are worth working on at a time.

    Several on the CPU, which share out torch's threads, and in float32: torch keeps any other precision of products
    for the process, not for a thread.
    """
    return min(torch.get_num_threads(), _MOST) if device.type == "cpu" and precision == "float32" else 1


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """The function of every item, in order.

    A thread that works on a chunk of its own, from the product to the metrics, waits for no other.

    Args:
        function: Does its work without holding the interpreter, and changes nothing that another item needs.
        items: Chunks of a list.
        workers: How many of them are worked on at a time.
    """
    return in_turn(function, [items], min(workers, len(items)))


def in_turn(function: Callable[[Item], Result], groups: Iterable[Sequence[Item]], workers: int) -> list[Result]:
    """The function of every item of some groups, in order, as by `parallel_map`; a group after the other is taken.

    By the same threads, because each keeps some of the memory that it has used.
    """
    if workers < 2:
        return [function(item) for items in groups for item in items]
    threads = torch.get_num_threads()
    share = -(-threads // workers)  # the same for all: torch reports what was last set in any thread
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()  # of this thread, not of others

    def in_thread(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return function(item)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,)) as pool:
            return [result for items in groups for result in list(pool.map(in_thread, items))]
    finally:
        torch.set_num_threads(threads)
