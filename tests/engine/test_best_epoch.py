"""The epoch that is deployed, if it is selected on the validation images."""

import copy

import pytest
import torch
from torch import nn

from benchmark.engine.best_epoch import BestEpoch, Selection
from benchmark.engine.compat import load_checkpoint
from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.engine.hooks import RetrievalMetric
from benchmark.methods.none import NoDistillation

SETTINGS = ("train.schedule.epochs=3", "evaluate.every=1", "evaluate.epoch=best", "dataset.validation_fraction=0.2")


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Observed(NoDistillation):
    """A method that keeps the student's weights after each epoch, and can be interrupted in one."""

    def __init__(self, interrupt: int = 0) -> None:
        super().__init__()
        self.interrupt = interrupt
        self.weights = {}

    def after_epoch(self, student, progress):
        if progress.epoch == self.interrupt:
            raise KeyboardInterrupt
        self.weights[progress.epoch] = copy.deepcopy(student.state_dict())
        return []


@pytest.fixture
def scores(monkeypatch):
    """`scores(a, b, ...)` makes these the mAP of the following validations."""

    def script(*values):
        remaining = iter(values)
        monkeypatch.setattr(RetrievalMetric, "compute_metrics", lambda self, results: {"mAP": next(remaining)})

    return script


@pytest.mark.parametrize(("values", "epoch"), [((0.1, 0.5, 0.2), 2), ((0.1, 0.2, 0.5), 3), ((0.5, 0.5, 0.5), 1)])
def test_network_of_the_best_epoch_is_deployed_and_saved(tiny, train_tiny, tmp_path, scores, values, epoch):
    scores(*values)
    method = Observed()
    trained = train_tiny(tiny("none", *SETTINGS), tmp_path, method=method)
    assert trained.selection == Selection(epoch, 0.5)
    assert equal(trained.student.state_dict(), method.weights[epoch])
    saved = load_checkpoint(tmp_path / LAST_CHECKPOINT, torch.device("cpu"))
    assert saved["epoch"] == 3
    assert equal(saved["student"], method.weights[epoch])


def test_best_epoch_before_an_interruption(tiny, train_tiny, tmp_path, scores):
    scores(0.1, 0.5)
    recipe, killed = tiny("none", *SETTINGS), Observed(interrupt=3)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(recipe, tmp_path, method=killed)
    scores(0.2)
    resumed = train_tiny(recipe, tmp_path, method=Observed(), resume=True)
    finished = train_tiny(recipe, tmp_path, method=Observed(), resume=True)
    for trained in (resumed, finished):
        assert trained.selection == Selection(2, 0.5)
        assert equal(trained.student.state_dict(), killed.weights[2])


def test_epochs_before_a_change_of_structure_do_not_count():
    method, best = nn.Identity(), BestEpoch()
    best.consider(nn.Linear(4, 3), method, 1, 0.9)
    small = nn.Linear(4, 2)
    best.consider(small, method, 2, 0.4)
    best.consider(nn.Linear(4, 2), method, 3, 0.3)
    assert best.selection == Selection(2, 0.4)
    last = nn.Linear(4, 2)
    best.restore(last, method)
    assert equal(last.state_dict(), small.state_dict())


def test_extra_state_that_is_no_tensor():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = [1]

        def get_extra_state(self):
            return self.count

        def set_extra_state(self, state):
            self.count = state

    best, method = BestEpoch(), Counting()
    best.consider(nn.Linear(4, 3), method, 1, 0.9)
    method.count[0] = 2
    best.restore(nn.Linear(4, 3), method)
    assert method.count == [1]
