"""The batch-hard triplet loss: the authors' values, a naive loop, degenerate batches."""

import pytest
import torch

from benchmark.losses import batch_hard_triplet


def test_golden(golden):
    values = golden("cdd_triplet")
    checked = 0
    for case in values.cases:
        hp = values.meta[case]["hp"]
        if hp["mining"] != 0 or hp["margin"] < 0:  # soft mining and soft margin are not implemented
            continue
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        loss = batch_hard_triplet(student, inputs["labels"], hp["margin"], hp["normalize"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)
        checked += 1
    assert checked == 12


@pytest.mark.parametrize("normalize", [False, True])
def test_equals_a_loop(normalize):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 4, generator=generator).double()
    labels = [0, 0, 0, 1, 1, 2, 3, 3, 3]  # identities with different numbers of images
    rows = [row / row.norm() for row in features] if normalize else list(features)
    expected = 0.0
    for a in range(9):
        positive = max(float((rows[a] - rows[p]).norm()) for p in range(9) if labels[p] == labels[a])
        negative = min(float((rows[a] - rows[n]).norm()) for n in range(9) if labels[n] != labels[a])
        expected += max(0.0, max(positive, 1e-6) - negative + 0.5) / 9
    loss = batch_hard_triplet(features, torch.tensor(labels), 0.5, normalize)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_no_loss_without_negatives():
    features = torch.randn(4, 3, requires_grad=True)
    loss = batch_hard_triplet(features, torch.zeros(4, dtype=torch.int64), 0.3, False)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


@pytest.mark.parametrize("normalize", [False, True])
def test_identical_features(normalize):
    for value in (0.0, 1.0):
        features = torch.full((6, 4), value, requires_grad=True)
        loss = batch_hard_triplet(features, torch.arange(6) // 2, 0.35, normalize)
        loss.backward()
        assert loss.item() == pytest.approx(0.35)
        assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    features = (1000 * torch.randn(8, 16)).to(dtype).requires_grad_()
    batch_hard_triplet(features, torch.arange(8) // 2, 0.3, False).backward()
    assert features.grad.isfinite().all()


def test_zero_row_has_a_bounded_gradient():
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).index_fill(0, torch.tensor([2]), 0)
    rows.requires_grad_()
    loss = batch_hard_triplet(rows, torch.arange(8) // 2, 0.3, normalize=True)
    loss.backward()
    assert loss > 0
    assert rows.grad.any()
    assert rows.grad.abs().max() < 1e6
