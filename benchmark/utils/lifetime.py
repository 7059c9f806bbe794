"""The lifetime of the command line's process and of those that it starts.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (a closed terminal) and SIGUSR1 (a scheduler's warning) raise `Interrupted` in the
main thread, so that whatever was started is stopped by `finally` and `with`. The process then exits with 130, 143, 129
or 75. During a training, SIGTERM and SIGUSR1 wait for the end of the step: see `finishing_steps`.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn

PARENT = "BENCHMARK_PARENT"
"""Environment variable with the id of the process that a process started by it must not outlive."""
BROKEN_PIPE = 128 + 13
"""Exit code if the reader of the output has ended, such as `head` in `benchmark list methods | head -1`."""
REQUEUE: Final = 75
"""Exit code of a run that has stopped early and can be continued: EX_TEMPFAIL of sysexits.h."""
STARTED: Final = time.monotonic()
"""When this process was started, for `time.monotonic`."""
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_DEFERRED = ("SIGTERM", "SIGUSR1")
"""Signals that wait for the end of a step."""
_REPEATED = 5.0
"""Time in seconds within which further signals of this kind belong to the first. A scheduler signals all processes of a
job, and a suite among them then sends SIGTERM to its runs, which have received the scheduler's signal already."""
_GRACE = 20.0
"""Time in seconds for threads to end after the command has ended."""
_WORKER_GRACE = 60
"""Time in seconds for a worker process to end after SIGTERM."""
_PR_SET_PDEATHSIG = 1

_process: int | None = None
"""The id of the process that has called `start`, unlike its forked children."""
_received: int | None = None
"""The first signal that this process has received."""
_received_at = 0.0
"""When it was received, for `time.monotonic`."""
_deferring = False
"""Whether signals wait for the end of a step."""


class Interrupted(KeyboardInterrupt):
    """A signal has asked this process to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.code = _code(number)


class Stopped(KeyboardInterrupt):
    """A training has written a checkpoint and stopped because of a signal or a time limit.

    Of several processes, all stop after the same step.

    Args:
        code: Exit code of the process.
        message: What has happened, for the user; empty if another process prints it.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def start() -> None:
    """Prepare the process of a command line: its streams, its signals, and its end if its parent ends."""
    global _process, _received, _deferring
    _process, _received, _deferring = os.getpid(), None, False
    _repair_streams()
    sys.unraisablehook = _unraisable
    take_signals()
    parent = os.environ.pop(PARENT, "")
    if parent.isdecimal():
        die_with_parent(int(parent), signal.SIGTERM)


def take_signals() -> None:
    """Let the signals interrupt this process if it has called `start`; also after a library has taken them.

    Ignored signals stay ignored: SIGHUP under `nohup`, and SIGINT of background jobs of a shell script.
    """
    if _process == os.getpid():
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _interrupt)


def received() -> int | None:
    """Return the first signal that this process has received; None if there was none."""
    return _received


@contextmanager
def finishing_steps() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 not interrupt the block, which checks `received` after every step.

    Another signal interrupts the block, unless it is one of these and follows the first within `_REPEATED` seconds.

    Raises:
        Interrupted: At the end of the block, if it has not noticed a signal.
    """
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    if _received is not None:
        raise Interrupted(_received)


def interruption(error: BaseException) -> int | None:
    """Return the exit code if a command has ended by a signal, else None.

    Args:
        error: How the command has ended. Code in other languages may have replaced `Interrupted` by an error of its
            own, such as `torch.save` by a RuntimeError.
    """
    for cause in _chain(error):
        if isinstance(cause, KeyboardInterrupt):
            return getattr(cause, "code", _code(signal.SIGINT))
    succeeded = isinstance(error, SystemExit) and not error.code
    return None if _received is None or succeeded else _code(_received)


def describe(error: BaseException) -> str:
    """Return how a command was interrupted, for the user; empty if another process prints it."""
    return next((str(cause) for cause in _chain(error) if isinstance(cause, Stopped)), "interrupted")


def notes(error: BaseException) -> list[str]:
    """Return the notes of an error and of its causes, without repetitions."""
    return list(dict.fromkeys(note for cause in _chain(error) for note in getattr(cause, "__notes__", ())))


def is_broken_pipe(error: BaseException) -> bool:
    """Whether a command has ended because the reader of its output has ended."""
    return any(isinstance(cause, BrokenPipeError) for cause in _chain(error))


def ignore_signals() -> None:
    """Let further signals have no effect, because the process is about to exit."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def finish(code: int) -> NoReturn:
    """Exit, after stopping the worker processes that are left."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error if a loader worker is killed
    for child in multiprocessing.active_children():
        child.kill()
    with suppress(RuntimeError):  # there is no memory for a thread
        threading.Thread(target=_exit_later, args=(code,), daemon=True).start()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:  # else Python exits with 120 and a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if code:  # the reason has been printed
                continue
            if isinstance(error, BrokenPipeError):
                code = BROKEN_PIPE
            else:
                code = 2
                print(f"benchmark: the output cannot be written: {error.strerror}", file=sys.stderr)
    sys.exit(code)


def die_with_parent(parent: int, number: int) -> None:
    """Let a signal be sent to this process when its parent ends, even if that is killed. On Linux only.

    Args:
        parent: The process that has started this one.
        number: The signal.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it has ended before
            os.kill(os.getpid(), number)


def start_worker() -> None:
    """Prepare a worker process, which its parent stops: it ignores the signals of the terminal and ends with it.

    SIGTERM, which a scheduler sends to all processes of a run, ends it later, because its parent finishes a step first.
    """
    for number in _SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        elif hasattr(signal, "alarm"):
            signal.signal(number, lambda *_: signal.alarm(_WORKER_GRACE))
    started_by = multiprocessing.parent_process()
    parent = os.environ.pop(PARENT, None) if started_by is None else started_by.pid
    if parent is not None and hasattr(signal, "SIGKILL"):
        die_with_parent(int(parent), signal.SIGKILL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _received, _received_at
    if os.getpid() != _process:  # a forked child, which its parent stops
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return
    if _received is None:
        _received, _received_at = number, time.monotonic()
    recent = time.monotonic() - _received_at < _REPEATED
    if recent and _deferring and signal.Signals(number).name in _DEFERRED:
        return
    # A second signal must not break the work of `finally` that the first has started.
    if not any(isinstance(cause, KeyboardInterrupt) for cause in _chain(sys.exception())):
        raise Interrupted(number)


def _code(number: int) -> int:
    """Return the exit code after a signal."""
    return REQUEUE if signal.Signals(number).name == "SIGUSR1" else 128 + number


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause's cause, and so on."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _unraisable(failure: Any) -> None:
    """Send a signal again whose exception was raised in a destructor, where Python drops it."""
    if isinstance(failure.exc_value, Interrupted):
        resend = threading.Timer(0.01, os.kill, (os.getpid(), failure.exc_value.number))
        resend.daemon = True
        resend.start()
    else:
        sys.__unraisablehook__(failure)


def _repair_streams() -> None:
    """Replace closed streams, and write characters that an encoding lacks as escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # without a stream here, the next file that is opened would get its descriptor
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        if mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _exit_later(code: int) -> None:
    time.sleep(_GRACE)
    os._exit(code)
