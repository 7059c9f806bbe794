"""RKD: naive loops over pairs and triples, normalization, and a triangle."""

import pytest
import torch
import torch.nn.functional as F

from benchmark.methods.rkd import RKD, angles, relative_distances


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_matches_naive_loops(terms, draw):
    rows = 5
    student, teacher = draw((rows, 3), (rows, 4))
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
    loss = terms(RKD(3.0, 5.0), embedding=(student, teacher))
    assert loss["rkd_distance"].item() == pytest.approx(3 * distance_term, rel=1e-12)
    assert loss["rkd_angle"].item() == pytest.approx(5 * angle_term, rel=1e-12)


def test_normalize_applies_to_both_networks(total, draw):
    student, teacher = draw((6, 8), (6, 8))
    expected = total(RKD(), embedding=(F.normalize(student), F.normalize(teacher)))
    assert torch.equal(total(RKD(normalize=True), embedding=(student, teacher)), expected)


def test_relations_of_a_triangle():
    corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert torch.allclose(relative_distances(corner), torch.tensor([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]]) / 4)
    assert torch.allclose(angles(corner)[0], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    assert angles(corner)[1, 0, 2].item() == pytest.approx(0.6)
