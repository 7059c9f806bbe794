"""AML: naive loops over tuples, batches without positives or negatives, and the form in the code of SSP."""

import pytest
import torch

from benchmark.methods.aml import AML, tuple_losses

LABELS = torch.tensor([0, 1, 0, 2, 1, 2, 2])


def distance(x, y):
    return max(float((x / x.norm() - y / y.norm()).norm()), 1e-3)


def naive(student, teacher, labels, margin, negatives, form):
    losses = []
    for a, anchor in enumerate(student):
        others = sorted(distance(anchor, teacher[n]) for n in range(len(labels)) if labels[n] != labels[a])[:negatives]
        for p in range(len(labels)):
            if p == a or labels[p] != labels[a]:
                continue
            positive = distance(anchor, teacher[p])
            if form == "paper":
                losses.append(positive**2 / 2 + sum(max(margin - d, 0) ** 2 / 2 for d in others))
            else:
                losses.append(sum(positive**2 / 2 + (margin - d) ** 2 / 2 for d in (positive, *others)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("form", ["paper", "ssp"])
@pytest.mark.parametrize("negatives", [1, 3, 4])
def test_matches_naive_loops(terms, draw, negatives, form):
    student, teacher = draw((7, 3), (7, 3))
    method = AML(1.2, 2.0, 3.0, negatives, form)
    loss = terms(method, labels=LABELS, embedding=(student, teacher))
    assert loss["aml_contrastive"].item() == pytest.approx(
        2 * naive(student, teacher, LABELS, 1.2, negatives, form), rel=1e-9
    )
    same = sum(distance(s, t) for s, t in zip(student, teacher, strict=True)) / 7
    assert loss["aml_regression"].item() == pytest.approx(3 * same, rel=1e-9)


def test_negatives_beyond_the_margin_cost_nothing_in_the_paper():
    distances = torch.tensor([[0.0, 0.7, 1.5]])
    assert tuple_losses(distances, 0.7, "paper").item() == 0
    assert tuple_losses(distances, 0.7, "ssp").item() == pytest.approx(0.7**2 / 2 + 0.8**2 / 2)


@pytest.mark.parametrize("form", ["paper", "ssp"])
def test_batches_without_positives_or_negatives(terms, draw, form):
    outputs = draw((4, 3), (4, 3))
    alone = terms(AML(form=form), labels=torch.arange(4), embedding=outputs)
    assert alone["aml_contrastive"] == 0
    assert alone["aml_regression"] > 0
    one_identity = terms(AML(form=form), labels=torch.zeros(4), embedding=outputs)
    assert one_identity["aml_contrastive"].isfinite()
    assert one_identity["aml_contrastive"] > 0


def test_regression_alone(terms, draw):
    loss = terms(AML(**AML.presets["regression"]), labels=torch.zeros(4), embedding=draw((4, 3), (4, 3)))
    assert loss["aml_contrastive"] == 0
    assert loss["aml_regression"] > 0
