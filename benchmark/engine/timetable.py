"""When a training writes checkpoints between the ends of its epochs, and when it stops."""

import signal
import time
from enum import IntEnum

from benchmark.utils.distributed import largest
from benchmark.utils.lifetime import REQUEUE, STARTED, received


class Due(IntEnum):
    """What is due after a step. All processes do what is the largest value of any of them."""

    NOTHING = 0
    CHECKPOINT = 1
    TIME_LIMIT = 2
    SIGUSR1 = 3
    SIGTERM = 4

    @property
    def exit_code(self) -> int | None:
        """Exit code of a training that stops now; None if it continues."""
        if self <= Due.CHECKPOINT:
            return None
        return 128 + signal.SIGTERM if self == Due.SIGTERM else REQUEUE

    @property
    def reason(self) -> str:
        """Why a training stops."""
        return "the time limit" if self == Due.TIME_LIMIT else self.name


class Timetable:
    """Decides after every step what is due. All processes have to call it, and get the same result.

    Args:
        minutes: Minutes between checkpoints; None for no such checkpoints.
        limit: Seconds from the start of the process to the end of the training; None for no limit.
    """

    def __init__(self, minutes: float | None, limit: float | None) -> None:
        self.minutes, self.limit = minutes, limit
        self.saved()

    def saved(self) -> None:
        """Begin the time until the next checkpoint."""
        self.last = time.monotonic()

    def due(self) -> Due:
        """Return what is due now."""
        return Due(largest(self._own()))

    def _own(self) -> Due:
        """Return what is due according to the signals and the clock of this process."""
        now, number = time.monotonic(), received()
        if number is not None:
            name = signal.Signals(number).name
            return Due[name] if name in Due.__members__ else Due.SIGTERM
        if self.limit is not None and now - STARTED >= self.limit:
            return Due.TIME_LIMIT
        if self.minutes is not None and now - self.last >= 60 * self.minutes:
            return Due.CHECKPOINT
        return Due.NOTHING
