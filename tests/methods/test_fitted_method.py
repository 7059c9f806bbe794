"""Methods that fit something to the teacher's embeddings before they distill."""

from dataclasses import replace

import pytest
import torch

from benchmark import UserError
from benchmark.fitted_method import FittedMethod


class Centered(FittedMethod):
    """Equation: (s - t + mean of teacher embeddings)^2, with as many embeddings as `fit_images`."""

    name = "centered"

    def __init__(self, fit_images):
        super().__init__()
        self.fit_images, self.calls = fit_images, 0
        self.register_buffer("center", torch.zeros(16))

    def fit(self, embeddings):
        self.calls += 1
        self.count = len(embeddings)
        return {"center": embeddings.mean(dim=0)}

    def distill(self, student, teacher, batch):
        return {"centered": (student.embedding - teacher.embedding + self.center).square().mean()}


@pytest.mark.parametrize(("fit_images", "steps", "fitted_to"), [(20, 1, 20), (32, 1, 32), (70, 3, 70), (71, 3, 71)])
def test_fits_once_as_soon_as_there_are_enough_embeddings(rig, fit_images, steps, fitted_to):
    made = rig(Centered(fit_images))
    terms = ["loss_centered" in made.step(number) for number in range(5)]
    assert terms == [number >= steps - 1 for number in range(5)]
    assert (made.method.calls, made.method.count) == (1, fitted_to)


def test_fits_after_the_first_epoch_if_it_is_short(rig):
    made = rig(Centered(1000))
    made.step(0)
    made.step(1)
    assert not made.method.fitted
    made.end_epoch()
    assert made.method.count == 64
    assert "loss_centered" in made.step(2)


def test_embeddings_that_are_not_finite_are_refused(rig):
    made = rig(Centered(64))
    made.step(0)
    made.method._collected[0][0, 0] = torch.nan
    with pytest.raises(UserError, match=r"centered: embeddings of the teacher are NaN .* set runtime.amp to off"):
        made.step(1)


def test_resumes_as_fitted(rig):
    made, resumed = rig(Centered(32)), rig(Centered(32), seed=1)
    made.step(0)
    resumed.take_over(made)
    assert torch.equal(resumed.method.center, made.method.center)
    assert torch.equal(resumed.step(1)["loss_centered"], made.step(1)["loss_centered"])
    assert resumed.method.calls == 0


def test_resumes_while_it_collects(rig):
    made, resumed = rig(Centered(1000)), rig(Centered(1000), seed=1)
    made.step(0)
    resumed.take_over(made)
    for each in (made, resumed):
        each.step(1)
        each.end_epoch()
    assert resumed.method.count == 64
    assert torch.equal(resumed.method.center, made.method.center)


def test_a_single_epoch_that_is_too_short_is_refused(rig, plan):
    one_epoch = replace(plan, epochs=1)  # 20 batches of 32
    rig(Centered(640), plan=one_epoch)
    with pytest.raises(UserError, match=r"collects 641 .* has 640; train for two .* set method.fit_images to 640"):
        rig(Centered(641), plan=one_epoch)


@pytest.mark.slow
def test_training_and_its_continuation_are_bit_identical(tiny, train_tiny, tmp_path):
    """Anchors are fitted after the first epoch, and are in its checkpoint."""
    recipe = tiny("ssp", "method.centroids=16", "method.blocks=4", "train.schedule.epochs=3")
    first, second = (train_tiny(recipe, tmp_path / run) for run in ("first", "second"))
    assert first.method.fitted
    assert first.method.anchors.any()
    assert torch.equal(first.method.anchors, second.method.anchors)
    for name, value in first.student.state_dict().items():
        assert torch.equal(value, second.student.state_dict()[name])
    resumed = train_tiny(recipe, tmp_path / "first", resume=True)
    assert resumed.method.fitted
    assert torch.equal(resumed.method.anchors, first.method.anchors)
