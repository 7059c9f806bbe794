"""MKD: a naive loop over pairs of images."""

import pytest

from benchmark.methods.mkd import MKD


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_matches_naive_loop(terms, draw, power, distance):
    maps = draw((4, 2, 2, 3), (4, 5, 2, 3))
    attention = []
    for x in maps:
        rows = [
            [sum(abs(v) ** power for v in column) / len(column) for column in image.flatten(1).T.tolist()]
            for image in x
        ]
        norms = [sum(v * v for v in row) ** 0.5 if distance == "cosine" else 1 for row in rows]
        attention.append([[v / norm for v in row] for row, norm in zip(rows, norms, strict=True)])

    def apart(x, y):
        return max(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5, 1e-6)

    s, t = attention
    errors = {(i, j): (apart(t[i], t[j]) - apart(s[i], t[j])) ** 2 for i in range(4) for j in range(4)}
    loss = terms(MKD(3.0, 5.0, (3,), power, distance), stage3=maps)
    assert loss["mkd_own"].item() == pytest.approx(3 * sum(errors[i, i] for i in range(4)) / 4, rel=1e-9)
    assert loss["mkd_other"].item() == pytest.approx(5 * sum(errors[p] for p in errors if p[0] != p[1]) / 4, rel=1e-9)
