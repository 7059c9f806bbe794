"""Several methods at once."""

import pytest
import torch

from benchmark.combination import Combination
from benchmark.errors import UserError
from benchmark.methods.kd import KD
from benchmark.methods.rkd import RKD
from benchmark.recipe import compose
from benchmark.registry import METHODS


def test_is_a_class_like_any_other():
    both = METHODS.find("kd+rkd")
    assert issubclass(both, Combination)
    assert both is METHODS.find("kd+rkd")
    assert "kd+rkd" not in METHODS.names(), "what is listed stays what is registered"
    assert both().needs.classifier
    assert both().needs.teacher


def test_its_terms_are_those_of_its_methods_with_their_own_weights(features):
    student, teacher = (features(embedding=torch.randn(6, 8), logits=torch.randn(6, 5)) for _ in range(2))
    both = METHODS.find("kd+rkd")(kd={"weight": 0.5}, rkd={"angle_weight": 3.0})
    expected = KD(weight=0.5).loss(student, teacher, None) | RKD(angle_weight=3.0).loss(student, teacher, None)
    assert both.loss(student, teacher, None) == expected


def test_is_aligned_where_one_of_its_methods_is(rig):
    assert not METHODS.find("kd+rkd")().aligned
    pulled = METHODS.find("fitnet+kd")()
    assert pulled.aligned
    rig(pulled, student={"dim": 12})
    assert not pulled.aligned, "a regressor takes the place of one space"


def test_each_has_its_own_part_of_the_recipe():
    settings = ["method.rkd.preset=metric_learning", "method.kd.weight=7", "method.rkd.angle_weight=9"]
    recipe = compose("kd+rkd", "glyphs", settings=settings)
    assert recipe.method.model_dump() == {
        "name": "kd+rkd",
        "kd": {"temperature": 2.0, "weight": 7.0},
        "rkd": {"distance_weight": 1.0, "angle_weight": 9.0, "normalize": False},
    }
    alone = compose("cdd", "glyphs")
    both = compose("cdd+rkd", "glyphs")
    assert both.student == alone.student, "recipe fragments of the methods are laid over each other"
    assert both.method.arguments["cdd"] == alone.method.arguments, "and what the dataset suits to each is in its part"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kd+rdk", "unknown method 'rdk'; did you mean 'rkd'"),
        ("kd+kd", "a method is named twice"),
        ("none+kd", "none has no loss terms; remove it"),
        ("kd+", "unknown method ''"),
    ],
)
def test_what_does_not_go_together(name, message):
    with pytest.raises(UserError, match=message):
        compose(name, "glyphs")


def test_only_one_may_decide_on_the_size(monkeypatch):
    monkeypatch.setattr(KD, "compresses", True)
    monkeypatch.setattr(METHODS, "_combinations", {})  # another test may have asked for this one
    with pytest.raises(UserError, match="cdd and kd both compress the student"):
        METHODS.find("cdd+kd")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.kd.wieght=1", "unknown key 'method.kd.wieght' in --set; did you mean 'weight'"),
        ("method.kd.weight=-1", "method.kd.weight in --set: should be greater than or equal to 0"),
        ("method.weight=1", "unknown key 'method.weight' in --set"),
        ("method.rkd.preset=paper", "rkd has no preset 'paper'"),
    ],
)
def test_mistakes_in_its_parts_are_named(setting, message):
    with pytest.raises(UserError, match=message):
        compose("kd+rkd", "glyphs", settings=[setting])


def test_a_compression_takes_others_with_it(rig, shrinking):
    """Its structure, its budget and its deployed network are those of the method that compresses."""
    values = dict(setting.removeprefix("method.").split("=") for setting in shrinking)
    arguments = {"cdd": {name: float(value) for name, value in values.items()} | {"target_macs": 0.1}}
    made, fresh = (rig(METHODS.find("rkd+cdd")(**arguments), seed=seed) for seed in (0, 1))
    losses = [made.step(number) for number in range(3)][-1]
    assert {"loss_cdd_kl", "loss_cdd_feature", "loss_rkd_distance"} <= set(losses)
    changes = made.end_epoch()
    assert changes
    assert made.method.budget.target == 0.1
    assert made.method.report(made.student)["channels"] < fresh.method.report(fresh.student)["channels"]
    assert made.method.minimal_student(made.student) is not None

    fresh.teacher.load_state_dict(made.teacher.state_dict())
    fresh.method.restore(fresh.student, made.method.structure())
    fresh.student.load_state_dict(made.student.state_dict())
    fresh.method.load_state_dict(made.method.state_dict())
    before = made.embed()
    assert torch.equal(fresh.embed(), before)
    with torch.no_grad():
        after = made.method.compact(made.student)(made.batches[0].images)
    assert torch.allclose(after, before, atol=1e-4)
