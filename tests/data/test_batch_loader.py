"""Failures of loader workers, and the shared memory that they need."""

import os
import signal
import time

import pytest
import torch

from benchmark.data import batch_loader as module
from benchmark.data.batch import Batch
from benchmark.data.batch_loader import BatchLoader, check_shared_memory, plan_workers
from benchmark.errors import UserError

BATCH = 96 * 3 * 256 * 256
"""Bytes of a batch at the recipes of Market-1501 and VeRi-776, about 19 MB."""


class Source:
    """Twelve batches of four images; `fail(number)` is called for each batch."""

    def __init__(self, fail=lambda number: None, predecoded: bool = False) -> None:
        self.fail = fail
        self.images = self
        self.shape = (3, 8, 8)
        self.predecoded = predecoded

    def __len__(self) -> int:
        return 48

    def __getitems__(self, indices) -> Batch:
        self.fail(indices[0] // 4)
        positions = torch.tensor(indices)
        return Batch(torch.zeros(4, *self.shape, dtype=torch.uint8) + positions[:, None, None, None], *3 * [positions])


def loader(source: Source, workers: int = 2) -> BatchLoader:
    batches = [list(range(first, first + 4)) for first in range(0, 48, 4)]
    return BatchLoader(source, batches, batch_size=4, workers=workers, device="cpu", persistent=False)


def firsts(batches) -> list[int]:
    return [int(batch.indices[0]) for batch in batches]


class Unpicklable(Exception):
    def __init__(self, content: object) -> None:
        super().__init__("cannot be sent")
        self.content = content


def raise_(error: BaseException, at: int = 3):
    def fail(number: int) -> None:
        if number == at:
            raise error

    return fail


def unpicklable(number: int) -> None:
    class Local(Exception):
        pass

    raise Local("of a class without a name") if number == 3 else Unpicklable(lambda: 0) if number == 4 else Local()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("x.jpg is broken"), UserError, r"^x\.jpg is broken$"),
        (MemoryError(), UserError, "^out of memory: "),
        (Unpicklable(lambda: 0), RuntimeError, "Unpicklable: cannot be sent"),
        (type("Local", (Exception,), {})("unnamed"), RuntimeError, "Local: unnamed"),
        (ValueError("DataLoader timed out"), RuntimeError, "ValueError: DataLoader timed out"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_error_in_a_worker_is_raised(error, kind, message):
    with pytest.raises(kind, match=message):
        firsts(loader(Source(raise_(error))))


@pytest.mark.parametrize("end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(3)])
def test_end_of_a_worker_is_an_error(end):
    with pytest.raises(UserError, match="a process that loads images has ended"):
        firsts(loader(Source(lambda number: end() if number == 3 else None)))


def test_bus_error_is_attributed_to_shared_memory():
    with pytest.raises(UserError, match="probably out of shared memory"):
        firsts(loader(Source(lambda number: os.kill(os.getpid(), signal.SIGBUS) if number == 3 else None)))


def test_silent_worker_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    with pytest.raises(UserError, match="no batch of images has arrived"):
        firsts(loader(Source(lambda number: time.sleep(0.8) if number == 3 else None)))


def test_stopped_processes_are_waited_for_once_more(monkeypatch):
    """As after Ctrl-Z and fg, when the time has passed before the workers continue."""
    monkeypatch.setattr(module, "TIMEOUT", 0.6)
    batches = firsts(loader(Source(lambda number: time.sleep(0.4) if number == 3 else None)))
    assert batches == list(range(0, 48, 4))


def test_exhausted_shared_memory_does_not_lose_batches(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    expected = list(loader(Source(), workers=0))
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    for batch, other in zip(loader(Source()), expected, strict=True):
        assert all(torch.equal(part, others) for part, others in zip(batch, other, strict=True))


class TestPlan:
    @pytest.fixture
    def free(self, monkeypatch):
        """`free(64)` leaves 64 MB of shared memory on a machine of 8 cores."""
        monkeypatch.setattr(module, "cores", lambda: 8)
        return lambda megabytes: monkeypatch.setattr(module, "_free_shared_memory", lambda: megabytes * 10**6)

    @pytest.mark.parametrize(
        ("megabytes", "requested", "expected"),
        [
            (10_000, None, (8, 4)),
            (10_000, 12, (12, 4)),
            (500, None, (8, 2)),
            (500, 4, (4, 4)),
            (100, 4, (2, 1)),
            (64, None, (0, 4)),
        ],
    )
    def test_fits_into_shared_memory(self, free, megabytes, requested, expected):
        free(megabytes)
        plan = plan_workers(requested, 96, (3, 256, 256))
        assert (plan.count, plan.prefetch) == expected
        assert (plan.notice is None) == (megabytes == 10_000 or (requested == 4 and megabytes == 500))

    def test_notice_has_numbers_and_a_remedy(self, free):
        free(100)
        assert plan_workers(4, 96, (3, 256, 256)).notice == (
            "4 loader workers need 340 MB of shared memory, but /dev/shm has 100 MB left: using 2 workers that load "
            "1 batch ahead; enlarge it, such as by `docker run --shm-size=2g`"
        )

    def test_requested_workers_are_refused_before_a_run_if_not_one_fits(self, free):
        free(64)
        with pytest.raises(UserError, match=r"^runtime.workers: 4 loader workers .* or set runtime.workers=0"):
            check_shared_memory(4, 96, (256, 256))
        assert "loading in the main process" in check_shared_memory(None, 96, (256, 256))
        free(100)
        assert "using 2 workers" in check_shared_memory(4, 96, (256, 256))
        free(10_000)
        assert check_shared_memory(4, 96, (256, 256)) is None

    def test_few_open_files_are_for_the_main_process(self, free, monkeypatch):
        free(10_000)
        monkeypatch.setattr(module, "max_open_files", lambda: 32)
        plan = plan_workers(2, 96, (3, 256, 256))
        assert plan.count == 0 and "2 loader workers need 52 open files, but the limit is 32" in plan.notice

    @pytest.mark.parametrize("options", [{"requested": 0}, {"requested": None, "predecoded": True}])
    def test_loading_in_the_main_process_needs_none(self, free, options):
        free(0)
        plan = plan_workers(batch_size=96, image_shape=(3, 256, 256), **options)
        assert (plan.count, plan.notice) == (0, None)


def test_the_end_of_the_main_process_is_no_news_in_a_worker(capsys):
    for error in (BrokenPipeError(), ConnectionResetError(), OSError("disk")):
        module._report_in_worker(type(error), error, None)
    assert capsys.readouterr().err == "OSError: disk\n"
