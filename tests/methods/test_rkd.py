"""RKD: the authors' numbers, loops over pairs and triples, what it is blind to, what could break it."""

import pytest
import torch
import torch.nn.functional as F

from benchmark.methods.rkd import RKD, angles, relative_distances
from benchmark.model.features import Features


def terms(method: RKD, student: torch.Tensor, teacher: torch.Tensor) -> dict[str, torch.Tensor]:
    empty = torch.empty(0)
    return method.loss(Features(empty, student, empty), Features(empty, teacher, empty), None)


def total(method: RKD, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return sum(terms(method, student, teacher).values())


def draw(rows: int, *widths: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, w, generator=generator).double() for w in widths]


@pytest.mark.parametrize(
    ("name", "weights"), [("rkd_distance", (1.0, 0.0)), ("rkd_angle", (0.0, 1.0)), ("rkd", None)], ids=lambda x: str(x)
)
def test_equals_the_authors_values(golden, name, weights):
    values = golden(name)
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = total(RKD(*(weights or (hp["w_d"], hp["w_a"]))), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)
        assert student.grad.isfinite().all()
        assert student.grad.abs().max() < 100


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_equals_loops_over_pairs_and_triples():
    rows = 5
    student, teacher = draw(rows, 3, 4)
    psi, angle = [], []
    for x in (student, teacher):
        pairs = {(i, j): float((x[i] - x[j]).norm()) for i in range(rows) for j in range(rows) if i != j}
        mean = sum(pairs.values()) / len(pairs)
        psi.append({pair: d / mean for pair, d in pairs.items()})
        angle.append(
            {
                (i, j, k): float((x[j] - x[i]) @ (x[k] - x[i])) / pairs[i, j] / pairs[i, k]
                for i, j in pairs
                for k in range(rows)
                if k != i
            }
        )
    distance_term = sum(huber(psi[0][p] - psi[1][p]) for p in psi[0]) / rows**2
    angle_term = sum(huber(angle[0][t] - angle[1][t]) for t in angle[0]) / rows**3
    loss = terms(RKD(3.0, 5.0), student, teacher)
    assert loss["rkd_distance"].item() == pytest.approx(3 * distance_term, rel=1e-12)
    assert loss["rkd_angle"].item() == pytest.approx(5 * angle_term, rel=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
def test_blind_to_rotation_permutation_and_scale(normalize):
    student, teacher = draw(6, 8, 10)
    method = RKD(normalize=normalize)
    expected = total(method, student, teacher)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double()).Q
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    for changed in (
        total(method, student @ rotation, teacher),
        total(method, student[order], teacher[order]),
        total(method, student, 7 * teacher),
        total(method, 0.1 * student, teacher),
    ):
        assert torch.allclose(changed, expected, rtol=1e-9)


def test_blind_to_a_shift_unless_normalised():
    student, teacher = draw(6, 8, 8)
    assert torch.allclose(total(RKD(), student + 3, teacher), total(RKD(), student, teacher), rtol=1e-9)
    assert not torch.allclose(total(RKD(normalize=True), student + 3, teacher), total(RKD(), student, teacher))


def test_normalize_is_normalisation_of_both():
    student, teacher = draw(6, 8, 8)
    expected = total(RKD(), F.normalize(student), F.normalize(teacher))
    assert torch.equal(total(RKD(normalize=True), student, teacher), expected)


def test_a_student_equal_to_its_teacher_costs_nothing():
    teacher = draw(6, 8)[0]
    student = (2 * teacher).requires_grad_()
    loss = total(RKD(), student, teacher)
    loss.backward()
    assert loss.item() < 1e-20
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_embeddings_have_finite_gradients(normalize, value):
    student = torch.full((6, 4), value, requires_grad=True)
    loss = total(RKD(normalize=normalize), student, torch.randn(6, 5))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_a_zero_row_has_a_bounded_gradient_when_rows_are_normalised():
    student, teacher = (x.float() for x in draw(6, 8, 10))
    student[2] = 0
    student.requires_grad_()
    loss = total(RKD(normalize=True), student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.any()
    assert student.grad.abs().max() < 1e6, "1e12 comes of a division by a norm of zero"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(dtype):
    student, teacher = ((300 * torch.randn(8, 64)).to(dtype).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(RKD(), student, teacher.detach())
        exact = total(RKD(), student.detach().float(), teacher.detach().float())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, exact, rtol=1e-5)


def test_relations_of_three_points():
    corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert torch.allclose(relative_distances(corner), torch.tensor([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]]) / 4)
    at_origin = angles(corner)[0]
    assert torch.allclose(at_origin, torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    assert angles(corner)[1, 0, 2].item() == pytest.approx(0.6)
