"""Noticing that another process has ended."""

import threading

import pytest

from benchmark.errors import UserError
from benchmark.utils import watch
from benchmark.utils.watch import Watch


class Store:
    """A store within a process; `hangs` and `ended` are events after which it does not answer, or fails."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.hangs, self.ended = threading.Event(), threading.Event()

    def _answer(self) -> None:
        if self.ended.is_set():
            raise RuntimeError("Connection reset by peer")
        if self.hangs.is_set():
            threading.Event().wait()

    def add(self, key: str, amount: int) -> int:
        self._answer()
        self.values[key] = str(int(self.values.get(key, "0")) + amount)
        return int(self.values[key])

    def check(self, keys: list[str]) -> bool:
        self._answer()
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def compare_set(self, key: str, expected: str, value: str) -> None:
        if self.values.get(key, "") == expected:
            self.values[key] = value


@pytest.fixture
def pair(monkeypatch):
    """The watches of two processes, the store, and the events and reasons with which they end."""
    monkeypatch.setattr(watch, "INTERVAL", 0.01)
    store, ended = Store(), {}
    watches = [Watch(store, rank, 2) for rank in range(2)]
    for each in watches:
        done = threading.Event()
        ended[each.rank] = [done, ""]

        def end(reason: str, entry=ended[each.rank]) -> None:
            entry[1] = reason
            entry[0].set()

        monkeypatch.setattr(each, "_end", end)
        each.start()
    yield watches, store, ended
    for each in watches:
        each._ending.set()


def test_processes_that_work(pair):
    watches, _, ended = pair
    assert not ended[0][0].wait(0.5)
    for each in watches:
        each.stop()
    assert not ended[1][0].is_set()


def test_process_that_is_killed(pair):
    watches, _, ended = pair
    watches[1]._ending.set()  # it does not count any more
    assert ended[0][0].wait(10)
    assert ended[0][1] == "process 1 has ended or hangs"


def test_process_that_fails(pair):
    watches, _, ended = pair
    watches[1].announce(UserError("the disk is full"))
    assert ended[0][0].wait(10)
    assert ended[0][1] == "process 1 has failed: the disk is full"


@pytest.mark.parametrize(
    ("event", "reason"), [("ended", "the main process has ended"), ("hangs", "the main process h")]
)
def test_store(pair, event, reason):
    _, store, ended = pair
    getattr(store, event).set()
    assert ended[1][0].wait(10)
    assert ended[1][1].startswith(reason)


def test_lost_connections(pair):
    watches, store, _ = pair
    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    assert watches[0].lost(RuntimeError("shapes differ")) is None
    assert watches[0].lost(gloo) == "the connection to another process was lost; this process ends, too"
    store.set("failed", "process 1 has failed: the disk is full")
    assert watches[0].lost(gloo) == "process 1 has failed: the disk is full; this process ends, too"
