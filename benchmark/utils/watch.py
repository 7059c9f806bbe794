"""Noticing that one of several processes has ended.

A process that waits for another one in torch.distributed may wait for ever. Here, a thread of every process counts in a
shared store and reads the count of the next process. A second thread notices if the store does not answer.
"""

import os
import sys
import threading
from contextlib import suppress

import torch.distributed as dist

from benchmark.errors import UserError
from benchmark.utils.console import complain
from benchmark.utils.lifetime import interruption

INTERVAL = 1.0
"""Seconds between two counts."""
SILENT = 10
"""Number of intervals after which a process that does not count has ended. Not seconds, because Ctrl-Z may have stopped
all processes for any time."""
_GRACE = 3.0
"""Seconds for the main thread to end by itself, before the process is ended."""
_FAILED = "failed"


class Watch:
    """Ends this process if another one fails, is killed or hangs.

    Args:
        store: A store of its own, shared by all processes.
        rank: The number of this process.
        processes: Number of processes.
    """

    def __init__(self, store: dist.Store, rank: int, processes: int) -> None:
        self.store, self.rank, self.watched = store, rank, (rank + 1) % processes
        self.reason: str | None = None
        """Why another process has ended, once that is known."""
        self._seen = self._silent = self._answers = 0
        self._failed: str | None = None
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._talk, self._run)]

    def start(self) -> None:
        """Start to count and to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop to watch, at the end of the work."""
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=_GRACE)

    def announce(self, error: BaseException) -> None:
        """Let the other processes know that this one ends by an error, unless another one has failed before."""
        self._ending.set()
        said = "was interrupted" if interruption(error) is not None else f"has failed: {_first_line(error)}"
        with suppress(RuntimeError):  # the store has ended, too
            self.store.compare_set(_FAILED, "", f"process {self.rank} {said}")

    def lost(self, error: RuntimeError) -> str | None:
        """Return which process has ended if that is the cause of an error of torch.distributed; None for others."""
        if not isinstance(error, dist.DistError) and not _is_of_gloo(error):
            return None
        with suppress(RuntimeError):
            failed = self.store.get(_FAILED).decode() if self.store.check([_FAILED]) else ""
            if failed and not failed.startswith(f"process {self.rank} "):
                self.reason = self.reason or failed
        return f"{self.reason or 'the connection to another process was lost'}; this process ends, too"

    def _talk(self) -> None:
        """Count and read, which may block if the machine of the store hangs."""
        while not self._ending.wait(INTERVAL):
            try:
                self._failed = self._failed or self._failure()
            except RuntimeError:
                self._failed = "the main process has ended"
            self._answers += 1

    def _run(self) -> None:
        answers = silent = 0
        while not self._ending.wait(INTERVAL):
            silent = silent + 1 if answers == self._answers else 0
            answers = self._answers
            if self._failed is not None or silent >= SILENT:
                self._end(self._failed or "the main process hangs, or its machine cannot be reached")
                return

    def _failure(self) -> str | None:
        """Count, and return which process has ended; None if all work."""
        self.store.add(str(self.rank), 1)
        if self.store.check([_FAILED]):
            return self.store.get(_FAILED).decode()
        seen = self.store.add(str(self.watched), 0)
        self._silent = self._silent + 1 if seen == self._seen else 0
        self._seen = seen
        if self._silent < SILENT:
            return None
        failure = f"process {self.watched} has ended or hangs"
        self.store.set(_FAILED, failure)
        return failure

    def _end(self, reason: str) -> None:
        """End the process, unless its main thread does so within the grace time."""
        self.reason = reason
        if self._ending.wait(_GRACE):
            return
        complain(f"{reason}; this process ends, too. Continue a run with --resume")
        sys.stderr.flush()
        os._exit(2)


def _is_of_gloo(error: RuntimeError) -> bool:
    return any(word in str(error) for word in ("gloo", "Connection closed", "Connection reset"))


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if isinstance(error, UserError) and text else type(error).__name__)[:500]
