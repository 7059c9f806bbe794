"""A training that stops after a step, with a checkpoint, and continues to the bit-identical result."""

import signal
import time
from pathlib import Path

import pytest
import torch

from benchmark.data.images import Images
from benchmark.engine.compat import load_checkpoint
from benchmark.engine.files import LAST_CHECKPOINT, read_metrics, read_skipped
from benchmark.engine.timetable import Due, Timetable
from benchmark.methods.none import NoDistillation
from benchmark.utils import lifetime
from benchmark.utils.lifetime import REQUEUE, Stopped

STEPS = 16
"""Steps per epoch."""
# Settings of CDD that remove channels after each of the first epochs.
SHRINKING = ("method.lasso=0.003", "method.threshold=0.95", "method.reset_from=0.1")
VALIDATED = ("evaluate.every=1", "dataset.validation_fraction=0.2")


@pytest.fixture
def stop(monkeypatch):
    """`stop(5)` lets a signal arrive during the fifth step; `stop()` lets trainings end by themselves."""

    def arrange(step: int | None = None, due: Due = Due.SIGTERM) -> None:
        calls = iter(range(1, 1_000_000))
        monkeypatch.setattr(Timetable, "_own", lambda self: due if next(calls) == step else Due.NOTHING)

    return arrange


def saved(folder: Path) -> dict:
    return load_checkpoint(folder / LAST_CHECKPOINT, torch.device("cpu"))


def without_times(folder: Path) -> list[dict[str, float]]:
    return [{key: row[key] for key in row.keys() - {"seconds", "images_per_second"}} for row in read_metrics(folder)]


def identical(first, second) -> bool:
    pairs = zip(first.student.state_dict().items(), second.student.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


class Draws(NoDistillation):
    """A method whose loss is random."""

    def loss(self, student, teacher, batch):
        return {"noise": (student.embedding * torch.randn_like(student.embedding)).mean()}


class TestContinuing:
    @pytest.mark.parametrize(
        ("method", "settings", "moments"),
        [
            pytest.param("cdd", SHRINKING, (1, 20, 6), id="compression"),
            pytest.param(
                "cdd", (*SHRINKING, *VALIDATED, "train.ema=0.9", "evaluate.epoch=best"), (3, STEPS, 6), id="average"
            ),
            pytest.param("none", ("train.schedule.frozen_epochs=1", "runtime.workers=1"), (7, 4), id="frozen"),
            pytest.param("ssp", ("method.centroids=16", "method.blocks=4"), (3, 2, 9), id="fitted"),
        ],
    )
    @pytest.mark.slow
    def test_result(self, tiny, train_tiny, stop, tmp_path, method, settings, moments):
        """Stopped within the first epoch and later ones; the moments count the steps after each resume."""
        recipe = tiny(method, *settings)
        stop()
        straight = train_tiny(recipe, tmp_path / "straight")
        for moment in moments:
            stop(moment)
            with pytest.raises(Stopped):
                train_tiny(recipe, tmp_path / "stopped", resume=True)
        stop()
        assert identical(straight, train_tiny(recipe, tmp_path / "stopped", resume=True))
        assert without_times(tmp_path / "stopped") == without_times(tmp_path / "straight")
        assert identical(straight, train_tiny(recipe, tmp_path / "stopped", resume=True))

    def test_random_state(self, tiny, train_tiny, stop, tmp_path):
        recipe = tiny("none", "train.schedule.epochs=1")
        stop()
        straight = train_tiny(recipe, tmp_path / "straight", method=Draws())
        stop(6)
        with pytest.raises(Stopped):
            train_tiny(recipe, tmp_path / "stopped", method=Draws())
        stop()
        assert identical(straight, train_tiny(recipe, tmp_path / "stopped", resume=True, method=Draws()))
        assert without_times(tmp_path / "stopped") == without_times(tmp_path / "straight")


class TestEnd:
    @pytest.mark.parametrize(
        ("due", "code", "reason"),
        [
            (Due.SIGTERM, 143, "SIGTERM"),
            (Due.SIGUSR1, REQUEUE, "SIGUSR1"),
            (Due.TIME_LIMIT, REQUEUE, "the time limit"),
        ],
    )
    def test_within_an_epoch(self, tiny, train_tiny, stop, tmp_path, due, code, reason):
        stop(3, due)
        with pytest.raises(
            Stopped, match=f"^stopped by {reason} after step 3 of 32 of the training of tiny$"
        ) as stopped:
            train_tiny(tiny("none"), tmp_path)
        assert stopped.value.code == code
        assert (saved(tmp_path)["epoch"], saved(tmp_path)["iter"]) == (0, 3)

    def test_broken_images_so_far_are_noted(self, tiny, train_tiny, stop, tmp_path, monkeypatch):
        monkeypatch.setattr(Images, "broken", lambda self: [Path("a.jpg")])
        stop(3)
        with pytest.raises(Stopped):
            train_tiny(tiny("none"), tmp_path)
        assert read_skipped(tmp_path) == ["a.jpg"]

    def test_after_the_validation_of_an_epoch(self, tiny, train_tiny, stop, tmp_path):
        stop(STEPS - 3)
        with pytest.raises(Stopped):
            train_tiny(tiny("none", *VALIDATED), tmp_path)
        assert saved(tmp_path)["epoch"] == 1
        assert "mAP" in read_metrics(tmp_path)[-1]


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("every", "epochs"),
        [(2, [(2, 2 * STEPS), (3, 3 * STEPS)]), (0, [(3, 3 * STEPS)])],
    )
    def test_interval(self, tiny, train_tiny, stop, tmp_path, monkeypatch, every, epochs):
        """After some epochs, within an epoch when it is time, and at the end."""
        written = []
        original = torch.save

        def save(content, file):
            written.append((content["epoch"], content["iter"]))
            original(content, file)

        monkeypatch.setattr(torch, "save", save)
        stop(STEPS + 5, Due.CHECKPOINT)
        train_tiny(tiny("none", "train.schedule.epochs=3", f"runtime.checkpoint_epochs={every}"), tmp_path)
        assert written == [(1, STEPS + 5), *epochs]

    def test_format_1(self, tiny, train_tiny, stop, tmp_path):
        """Checkpoints of earlier versions, which are all of the end of an epoch, are continued."""
        recipe = tiny("none")
        stop(STEPS)
        with pytest.raises(Stopped):
            train_tiny(recipe, tmp_path / "stopped")
        content = saved(tmp_path / "stopped") | {"format": 1}
        del content["begun"]
        torch.save(content, tmp_path / "stopped" / LAST_CHECKPOINT)
        stop()
        straight = train_tiny(recipe, tmp_path / "straight")
        assert identical(straight, train_tiny(recipe, tmp_path / "stopped", resume=True))


class TestTimetable:
    def test_interval(self, monkeypatch):
        timetable = Timetable(10, None)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 599)
        assert timetable.due() == Due.NOTHING
        monkeypatch.setattr(time, "monotonic", lambda: now + 601)
        assert timetable.due() == Due.CHECKPOINT
        timetable.saved()
        assert timetable.due() == Due.NOTHING

    def test_limit_counts_from_the_start_of_the_process(self, monkeypatch):
        timetable = Timetable(None, 3600)
        monkeypatch.setattr(time, "monotonic", lambda: lifetime.STARTED + 3599)
        assert timetable.due() == Due.NOTHING
        monkeypatch.setattr(time, "monotonic", lambda: lifetime.STARTED + 3600)
        assert timetable.due() == Due.TIME_LIMIT

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
    def test_signals_come_first(self, number, monkeypatch):
        monkeypatch.setattr(lifetime, "_received", number)
        assert Timetable(1e-9, 1).due() == Due[number.name]
