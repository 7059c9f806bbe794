"""Attention transfer: a naive loop over positions, and the range of the paper's form."""

import pytest

from benchmark.methods.at import AT


def attention(maps, power):
    """Attention map of one image, (C, H, W), as a list."""
    channels, height, width = maps.shape
    raw = [
        sum(abs(maps[c, i, j].item()) ** power for c in range(channels)) for i in range(height) for j in range(width)
    ]
    norm = sum(value**2 for value in raw) ** 0.5
    return [value / norm for value in raw]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_matches_naive_loop(total, draw, power):
    student, teacher = draw((3, 2, 2, 3), (3, 4, 2, 3))
    squares = []
    for s, t in zip(student, teacher, strict=True):
        pairs = zip(attention(s, power), attention(t, power), strict=True)
        squares.append(sum((a - b) ** 2 for a, b in pairs))
    code, paper = (total(AT(2.0, (3,), power, form), stage3=(student, teacher)) for form in ("code", "paper"))
    assert code.item() == pytest.approx(2 * sum(squares) / 3 / 6, rel=1e-9)
    assert paper.item() == pytest.approx(2 * sum(square**0.5 for square in squares) / 3, rel=1e-9)


def test_paper_form_is_bounded_by_four_distances_of_unit_vectors(rig):
    losses = rig(AT(**AT.presets["paper"])).step()
    assert 0 < losses["loss_at"] < 4 * 2**0.5
