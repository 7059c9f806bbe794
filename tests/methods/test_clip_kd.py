"""CLIP-KD: naive loops of each term over the batch, gradients by autograd, and embeddings of different sizes."""

import math

import pytest
import torch

from benchmark import UserError
from benchmark.losses import l2_normalize
from benchmark.methods.clip_kd import CLIPKD, contrastive, contrastive_gradients

WEIGHTS = dict.fromkeys(("feature", "interactive", "relation", "cross", "gradient", "fusion"), 2.0)


def prepared(rig, student_dim=16, **weights):
    arguments = {f"{name}_weight": weight for name, weight in (dict.fromkeys(WEIGHTS, 0.0) | weights).items()}
    made = rig(CLIPKD(**arguments), student={"dim": student_dim})
    made.method.double()
    return made.method


def softmax(row):
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def product(rows, others, scale):
    return [[scale * sum(a * b for a, b in zip(x, y, strict=True)) for y in others] for x in rows]


def divergence(teacher, student):
    pairs = [zip(softmax(t), softmax(s), strict=True) for t, s in zip(teacher, student, strict=True)]
    return sum(p * math.log(p / q) for row in pairs for p, q in row) / len(teacher)


def own_entropy(logits):
    return -sum(math.log(softmax(row)[i]) for i, row in enumerate(logits)) / len(logits)


def test_matches_naive_loops(rig, terms, draw):
    outputs = draw((5, 16), (5, 16))
    method = prepared(rig, **WEIGHTS)
    c, a = method.cross_scale.item(), 1 / 0.07
    s, t = (l2_normalize(x).tolist() for x in outputs)
    fused = l2_normalize(method.fusion(torch.cat([torch.tensor(s), torch.tensor(t)], dim=1).double())).tolist()
    squares = [(x - y) ** 2 for row, other in zip(s, t, strict=True) for x, y in zip(row, other, strict=True)]
    expected = {
        "feature": 2 * sum(squares) / len(squares),
        "interactive": own_entropy(product(s, t, c)),
        "relation": divergence(product(t, t, a), product(s, s, a)),
        "cross": divergence(product(t, t, a), product(s, t, c)),
        "fusion": own_entropy(product(fused, fused, c)),
    }
    computed = {name.removeprefix("clip_kd_"): term.item() for name, term in terms(method, embedding=outputs).items()}
    assert computed.pop("gradient") > 0
    assert computed == pytest.approx({name: 2 * value for name, value in expected.items()}, rel=1e-6)


def test_gradients_of_the_contrastive_loss(draw):
    rows, others = (l2_normalize(x).requires_grad_() for x in draw((5, 3), (5, 3)))
    expected = torch.autograd.grad(contrastive(rows @ others.T / 4.0), (rows, others))
    for gradient, reference in zip(contrastive_gradients(rows, others, 4.0), expected, strict=True):
        assert torch.allclose(gradient, reference, rtol=1e-9)


@pytest.mark.parametrize("term", ["feature", "relation", "gradient"])
def test_student_equal_to_teacher_costs_nothing(rig, total, draw, term):
    method = prepared(rig, **{term: 1.0})
    (teacher,) = draw((5, 16))
    assert total(method, embedding=(3 * teacher, teacher)).abs() < 1e-12
    assert total(method, embedding=(teacher.flip(0), teacher)) > 1e-6


def test_has_only_the_parameters_that_its_terms_use(rig):
    names = {
        name: sorted({parameter.split(".")[0] for parameter, _ in prepared(rig, **{name: 1.0}).named_parameters()})
        for name in WEIGHTS
    }
    assert names == {
        **{name: [] for name in ("feature", "relation", "gradient")},
        **{name: ["cross_scale"] for name in ("interactive", "cross")},
        "fusion": ["cross_scale", "fusion"],
    }


def test_is_aligned_by_terms_that_put_the_student_into_the_teachers_space(rig):
    assert prepared(rig, feature=1.0).aligned
    assert prepared(rig, interactive=1.0).aligned
    assert not prepared(rig, relation=1.0).aligned
    assert not prepared(rig, student_dim=12, feature=1.0).aligned


def test_embeddings_of_different_sizes(rig):
    made = rig(CLIPKD(), student={"dim": 12})
    before = made.method.project.weight.clone()
    assert all(value.isfinite() for value in made.step().values())
    assert not torch.equal(made.method.project.weight, before)
    with pytest.raises(UserError, match=r"method.fusion_weight: 2 needs .* not 12 of the student and 16"):
        CLIPKD(fusion_weight=2.0).check(made.student, made.teacher, made.plan)
