"""Losses, distances and normalizations that several methods share."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.losses import (
    batch_hard_triplet,
    feature_distance,
    global_avg_pool,
    kl_divergence,
    l2_normalize,
    match_size,
    pairwise_distance,
    ranked_similarities,
)

sides = st.integers(1, 9)


def draw(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).double()


class TestL2Normalize:
    def test_equals_a_loop(self):
        features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
        for row, unit in zip(features.tolist(), l2_normalize(features).tolist(), strict=True):
            norm = sum(x * x for x in row) ** 0.5
            assert unit == pytest.approx([x / norm for x in row], rel=1e-12)

    def test_zero_rows_remain_and_have_no_gradient(self):
        features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
        unit = l2_normalize(features)
        assert torch.equal(unit[0], torch.zeros(2))
        assert torch.allclose(unit[1], torch.tensor([0.6, 0.8]))
        unit.sum().backward()
        assert not features.grad[0].any()
        assert features.grad[1].any()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_does_not_overflow(self, dtype):
        unit = l2_normalize(torch.full((2, 64), 3e4, dtype=dtype))
        assert unit.dtype == torch.float32
        assert torch.allclose(unit, torch.full((2, 64), 0.125))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_global_avg_pool_averages_half_precision_in_float32(dtype):
    maps = torch.tensor([3e4, 1.0], dtype=dtype).repeat(32).view(1, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = global_avg_pool(maps)
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx((maps[0, 0, 0, 0].item() + 1) / 2, rel=1e-6)


class TestPairwiseDistance:
    def test_equals_a_loop(self):
        features, others = draw(5, 3, 0), draw(4, 3, 1)
        for second, distances in (
            (features, pairwise_distance(features)),
            (others, pairwise_distance(features, others)),
        ):
            assert distances.shape == (5, len(second))
            for i, x in enumerate(features):
                for j, y in enumerate(second):
                    assert distances[i, j].item() == pytest.approx(max(math.dist(x, y), 1e-6), rel=1e-12)

    def test_identical_rows_have_no_gradient(self):
        features = torch.ones(4, 3, requires_grad=True)
        pairwise_distance(features).sum().backward()
        assert not features.grad.any()

    def test_small_distance_far_from_the_origin(self):
        features = torch.tensor([[1000.0, 0.0], [1000.0, 0.0625]])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert pairwise_distance(features)[0, 1].item() == 0.0625

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_does_not_overflow(self, dtype):
        assert pairwise_distance(torch.tensor([[3e4], [-3e4]], dtype=dtype)).isfinite().all()


class TestKLDivergence:
    def test_equals_a_loop(self):
        generator = torch.Generator().manual_seed(0)
        student, teacher = (3 * torch.randn(4, 5, generator=generator).double() for _ in range(2))
        temperature, expected = 3.0, 0.0
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
            p_s, p_t = ([math.exp(x / temperature) for x in row] for row in (s, t))
            for q_s, q_t in zip(p_s, p_t, strict=True):
                q_s, q_t = q_s / sum(p_s), q_t / sum(p_t)
                expected += temperature**2 / 4 * q_t * math.log(q_t / q_s)
        assert kl_divergence(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        student = torch.tensor([[600.0, -600.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
        loss = kl_divergence(student, -student.detach(), 1.0)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()

    def test_invariant_to_a_constant_added_to_the_logits(self):
        student, teacher = torch.randn(4, 6), torch.randn(4, 6)
        assert torch.allclose(
            kl_divergence(student + 7, teacher - 3, 2.0), kl_divergence(student, teacher, 2.0), atol=1e-5
        )


class TestFeatureDistance:
    def test_equals_a_loop(self):
        student, teacher = ([draw(5, width, seed) for width in (3, 7)] for seed in (0, 1))
        expected = 0.0
        for s, t in zip(student, teacher, strict=True):
            expected += sum(math.dist(s[image], t[image]) for image in range(5)) / 5
        assert feature_distance(student, teacher).item() == pytest.approx(expected, rel=1e-12)

    def test_equal_rows_have_no_gradient(self):
        student = torch.randn(4, 6).requires_grad_()
        teacher = student.detach().clone()
        teacher[1] += 1
        feature_distance([student], [teacher]).backward()
        assert student.grad.isfinite().all()
        assert not student.grad[[0, 2, 3]].any()
        assert student.grad[1].any()

    def test_half_precision_does_not_overflow(self):
        student, teacher = torch.full((2, 8), 3e4, dtype=torch.float16), torch.full((2, 8), -3e4, dtype=torch.float16)
        assert feature_distance([student], [teacher]).isfinite()


class TestMatchSize:
    @settings(deadline=None, max_examples=25)
    @given(student=st.tuples(sides, sides), teacher=st.tuples(sides, sides))
    def test_entries_are_means_of_cells(self, student, teacher):
        generator = torch.Generator().manual_seed(0)
        maps = [torch.randn(2, c, *size, generator=generator).double() for c, size in ((3, student), (5, teacher))]
        size = tuple(min(pair) for pair in zip(student, teacher, strict=True))
        for before, after in zip(maps, match_size(*maps), strict=True):
            assert after.shape == (*before.shape[:2], *size)
            (height, width), (h, w) = before.shape[2:], size
            for i in range(h):
                for j in range(w):
                    rows = slice(i * height // h, math.ceil((i + 1) * height / h))
                    columns = slice(j * width // w, math.ceil((j + 1) * width / w))
                    torch.testing.assert_close(after[:, :, i, j], before[:, :, rows, columns].mean(dim=(2, 3)))

    def test_maps_of_equal_size_are_returned(self):
        maps = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
        assert all(after is before for before, after in zip(maps, match_size(*maps), strict=True))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_averaged_in_float32(self, dtype):
        large = torch.full((1, 1, 64, 64), 3e4, dtype=dtype)
        large[..., ::2] = 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled, other = match_size(large, torch.ones(1, 1, 1, 1, dtype=dtype))
        assert pooled.dtype == other.dtype == torch.float32
        assert pooled.item() == pytest.approx((large[0, 0, 0, 1].item() + 1) / 2, rel=1e-6)


class TestRankedSimilarities:
    @pytest.mark.parametrize(("top_k", "length"), [(3, 3), (6, 6), (50, 6)])
    def test_equals_a_loop(self, top_k, length):
        student, teacher = draw(6, 4, 0), draw(6, 4, 1)
        s, t = ranked_similarities(student, teacher, top_k)
        assert s.shape == t.shape == (6, length)
        for i in range(6):
            cosines = [
                (
                    float(teacher[i] @ x / teacher[i].norm() / x.norm()),
                    float(student[i] @ x / student[i].norm() / x.norm()),
                )
                for x in teacher
            ]
            nearest = sorted(cosines, reverse=True)[:length]
            assert t[i].tolist() == pytest.approx([cosine for cosine, _ in nearest], rel=1e-12)
            assert s[i].tolist() == pytest.approx([cosine for _, cosine in nearest], rel=1e-12)
            assert nearest[0][0] == pytest.approx(1)

    def test_is_exact_under_autocast(self):
        student, teacher = draw(8, 64, 0).float(), draw(8, 64, 1).float()
        exact = ranked_similarities(student, teacher, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = ranked_similarities(student, teacher, 4)
        assert all(torch.equal(a, b) for a, b in zip(autocast, exact, strict=True))


class TestBatchHardTriplet:
    def test_golden(self, golden):
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
    def test_equals_a_loop(self, normalize):
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

    def test_no_loss_without_negatives(self):
        features = torch.randn(4, 3, requires_grad=True)
        loss = batch_hard_triplet(features, torch.zeros(4, dtype=torch.int64), 0.3, False)
        loss.backward()
        assert loss.item() == 0
        assert not features.grad.any()

    @pytest.mark.parametrize("normalize", [False, True])
    def test_identical_features(self, normalize):
        for value in (0.0, 1.0):
            features = torch.full((6, 4), value, requires_grad=True)
            loss = batch_hard_triplet(features, torch.arange(6) // 2, 0.35, normalize)
            loss.backward()
            assert loss.item() == pytest.approx(0.35)
            assert features.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        features = (1000 * torch.randn(8, 16)).to(dtype).requires_grad_()
        batch_hard_triplet(features, torch.arange(8) // 2, 0.3, False).backward()
        assert features.grad.isfinite().all()

    def test_zero_row_has_a_bounded_gradient(self):
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).index_fill(0, torch.tensor([2]), 0)
        rows.requires_grad_()
        loss = batch_hard_triplet(rows, torch.arange(8) // 2, 0.3, normalize=True)
        loss.backward()
        assert loss > 0
        assert rows.grad.any()
        assert rows.grad.abs().max() < 1e6


class TestCrossEntropy:
    """torch's label smoothing is that of CDD's identity loss: (1 - eps) onehot + eps / C."""

    def test_golden(self, golden):
        values = golden("cdd_cross_entropy")
        for case in values.cases:
            inputs = values.inputs(case)
            student = inputs["student"].requires_grad_()
            loss = F.cross_entropy(student, inputs["target"], label_smoothing=values.meta[case]["hp"]["epsilon"])
            loss.backward()
            values.check(case, loss.detach(), student=student.grad)
