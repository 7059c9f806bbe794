"""Combinations of methods: `--method kd+rkd`."""

import pytest
import torch

from benchmark import METHODS, UserError
from benchmark.combination import Combination
from benchmark.methods.kd import KD
from benchmark.methods.rkd import RKD
from benchmark.recipe import compose


def test_class():
    both = METHODS.find("kd+rkd")
    assert issubclass(both, Combination)
    assert both is METHODS.find("kd+rkd")
    assert (both.name, dict(both.parts)) == ("kd+rkd", {"kd": KD, "rkd": RKD})
    assert "kd+rkd" not in METHODS.names()
    assert list(METHODS.find("kd+dkd")().state_dict()) == ["methods.dkd.epoch"]
    assert both().needs.classifier
    assert both().needs.teacher


def test_terms_of_each_method_with_its_own_weights(features):
    student, teacher = (features(embedding=torch.randn(6, 8), logits=torch.randn(6, 5)) for _ in range(2))
    both = METHODS.find("kd+rkd")(kd={"weight": 0.5}, rkd={"angle_weight": 3.0})
    expected = KD(weight=0.5).loss(student, teacher, None) | RKD(angle_weight=3.0).loss(student, teacher, None)
    assert both.loss(student, teacher, None) == expected


def test_aligned_if_one_of_the_methods_is(rig):
    assert not METHODS.find("kd+rkd")().aligned
    fitnet = METHODS.find("fitnet+kd")()
    assert fitnet.aligned
    rig(fitnet, student={"dim": 12})
    assert not fitnet.aligned, "fitnet needs a regressor between embeddings of different size"


def test_recipe():
    settings = ["method.rkd.preset=metric_learning", "method.kd.weight=7", "method.rkd.angle_weight=9"]
    recipe = compose("kd+rkd", "glyphs", settings=settings)
    assert recipe.method.model_dump() == {
        "name": "kd+rkd",
        "kd": {"temperature": 2.0, "weight": 7.0},
        "rkd": {"distance_weight": 1.0, "angle_weight": 9.0, "normalize": False},
    }
    alone = compose("cdd", "glyphs")
    both = compose("cdd+rkd", "glyphs")
    assert both.student == alone.student, "the recipe fragments of the methods are merged"
    assert both.method.arguments["cdd"] == alone.method.arguments, "each method has the dataset's arguments for it"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kd+rkdd", "unknown method 'rkdd'; did you mean 'rkd'"),
        ("kd+kd", "a method is named twice"),
        ("none+kd", "none has no loss terms; remove it"),
        ("kd+", "unknown method ''"),
        ("cdd+uniform+kd", "cdd and uniform both compress the student; keep one"),
    ],
)
def test_invalid_names(name, message):
    with pytest.raises(UserError, match=message):
        compose(name, "glyphs")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.kd.wieght=1", "method.kd.wieght in --set: unknown key; did you mean method.kd.weight"),
        ("method.kd.weight=-1", "method.kd.weight in --set: should be greater than or equal to 0"),
        ("method.weight=1", "method.weight in --set: unknown key"),
        ("method.rkd.preset=paper", "rkd has no preset 'paper'"),
    ],
)
def test_invalid_settings(setting, message):
    with pytest.raises(UserError, match=message):
        compose("kd+rkd", "glyphs", settings=[setting])


def test_with_a_method_that_compresses(rig):
    """Structure, budget and deployed network are those of the method that compresses."""
    arguments = {"cdd": {"target_macs": 0.1, "threshold": 0.95, "lasso": 0.006, "reset_from": 0.1, "ratio": 0.9}}
    made, resumed = (rig(METHODS.find("rkd+cdd")(**arguments), seed=seed) for seed in (0, 1))
    assert made.method.compresses
    losses = [made.step(number) for number in range(3)][-1]
    assert {"loss_cdd_kl", "loss_cdd_feature", "loss_rkd_distance"} <= set(losses)
    assert made.end_epoch()
    assert made.method.budget.target == 0.1
    assert made.method.report(made.student)["channels"] < resumed.method.report(resumed.student)["channels"]
    assert made.method.minimal_student(made.student) is not None

    resumed.take_over(made)
    before = made.embed()
    assert torch.equal(resumed.embed(), before)
    with torch.no_grad():
        after = made.method.compact(made.student)(made.images)
    assert torch.allclose(after, before, atol=1e-4)


def test_methods_remember_different_numbers_of_steps(rig):
    """SSP still collects the embeddings of all steps, and the queue of CDD has those of the last two."""
    arguments = {"ssp": {"centroids": 16, "blocks": 4}, "cdd": {"reset_from": 0.05, "queue": 64}}
    made, resumed = (rig(METHODS.find("ssp+cdd")(**arguments)) for _ in range(2))
    for number in range(4):
        made.step(number)
    parts = made.method.members
    resumed.take_over(made)
    assert [resumed.method.members[name].remembered_steps() for name in parts] == [4, 2]
    cdd = [each.method.members["cdd"].gradient_reset for each in (made, resumed)]
    assert torch.equal(cdd[0].queue0, cdd[1].queue0)
    for each in (made, resumed):
        each.end_epoch()
    assert torch.equal(resumed.method.members["ssp"].anchors, parts["ssp"].anchors)
    assert made.step(4) == resumed.step(4)
