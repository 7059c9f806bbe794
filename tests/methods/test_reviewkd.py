"""Knowledge review: naive loops over pyramid and fusion, the order of the levels, and map sizes."""

import math

import pytest
import torch

from benchmark import Embedder
from benchmark.methods.reviewkd import Fusion, ReviewKD, hcl


def prepared(method, inputs=(4, 4, 4, 4), outputs=(4, 4, 4, 4)):
    """Prepare for networks with these channels."""
    method.prepare(*(Embedder("resnet18", args={"channels": list(widths)}) for widths in (inputs, outputs)), None)
    return method.double()


class TestHCL:
    @pytest.mark.parametrize("size", [(7, 5), (4, 6), (2, 9), (1, 1)])
    def test_matches_naive_loop(self, draw, size):
        student, teacher = draw((2, 3, *size), (2, 3, *size))
        height, width = size
        grids = [(height, width)] + [(side, side) for side in (4, 2, 1) if side < height]
        total = factors = 0.0
        for k, (rows, columns) in enumerate(grids):
            squares = []
            for b in range(2):
                for c in range(3):
                    for i in range(rows):
                        for j in range(columns):
                            cells = [
                                (student[b, c, y, x] - teacher[b, c, y, x]).item()
                                for y in range(i * height // rows, math.ceil((i + 1) * height / rows))
                                for x in range(j * width // columns, math.ceil((j + 1) * width / columns))
                            ]
                            squares.append((sum(cells) / len(cells)) ** 2)
            total += sum(squares) / len(squares) / 2**k
            factors += 1 / 2**k
        assert hcl(student, teacher).item() == pytest.approx(total / factors, rel=1e-9)

    def test_weights_a_common_shift_more_than_noise(self, draw):
        teacher, noise = draw((4, 3, 8, 4), (4, 3, 8, 4))
        noise = noise / noise.square().mean().sqrt()
        assert hcl(teacher, teacher).item() == 0
        assert hcl(teacher + 1, teacher).item() == pytest.approx(1, rel=1e-9)
        assert hcl(teacher + noise, teacher).item() < 0.7
        assert torch.allclose(hcl(5 * teacher, 5 * noise), 25 * hcl(teacher, noise), rtol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
    def test_half_precision_equals_float32(self, draw, dtype):
        maps = [(300 * x).to(dtype) for x in draw((4, 3, 8, 4), (4, 3, 8, 4))]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = hcl(*maps)
        assert torch.allclose(loss, hcl(*(x.float() for x in maps)), rtol=1e-5)


def test_fusion_matches_naive_loop(draw):
    maps, deeper = draw((3, 5, 4, 6), (3, 7, 2, 3))
    fusion = Fusion(5, 7, 8, fuses=True).double()
    output, fused = fusion(maps, deeper, torch.Size((8, 6)))
    own = fusion.reduce(maps)
    assert output.shape == (3, 8, 8, 6) and fused.shape == (3, 7, 8, 6)
    weight, bias = fusion.attend.weight[:, :, 0, 0], fusion.attend.bias
    for b in range(3):
        for i in range(8):
            for j in range(6):
                x, y = own[b, :, i // 2, j], deeper[b, :, i // 4, j // 2]
                z = (weight @ torch.cat([x, y]) + bias).sigmoid()
                torch.testing.assert_close(fused[b, :, i, j], z[0] * x + z[1] * y, rtol=1e-9, atol=1e-12)


def test_output_of_a_level_depends_on_deeper_levels_but_not_on_shallower_ones(draw):
    method = prepared(ReviewKD(stages=(1, 2), middle=6, pooled=False), (3, 4, 4, 4), (5, 6, 4, 4))
    student = [maps.requires_grad_() for maps in draw((3, 3, 8, 4), (3, 4, 4, 2))]
    shallow, deep = method.review(student, draw((3, 5, 8, 4), (3, 6, 4, 2)))
    from_shallow, from_deep = (
        torch.autograd.grad(output.square().sum(), student, retain_graph=True, allow_unused=True)
        for output in (shallow, deep)
    )
    assert all(gradient.any() for gradient in from_shallow)
    assert from_deep[0] is None and from_deep[1].any()


def test_maps_of_any_two_sizes(total, draw):
    method = prepared(ReviewKD(2.0, (1, 3), middle=6, pooled=False), (3, 4, 4, 4), (5, 6, 7, 4))
    student, teacher = draw((3, 3, 8, 4), (3, 4, 2, 1)), draw((3, 5, 12, 6), (3, 7, 3, 3))
    loss = total(method, stage1=(student[0], teacher[0]), stage3=(student[1], teacher[1]))
    outputs = method.review(student, teacher)
    expected = 2 * sum(hcl(output, target) for output, target in zip(outputs, teacher, strict=True))
    assert torch.allclose(loss, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_close_to_float32(total, dtype):
    method = prepared(ReviewKD(stages=(1, 2), middle=6)).float()
    shapes = {"stage1": (6, 4, 8, 4), "stage2": (6, 4, 4, 2)}
    outputs = {name: [(30 * torch.randn(shape)).to(dtype) for _ in range(2)] for name, shape in shapes.items()}
    outputs["pooled"] = [torch.randn(6, 4).to(dtype)] * 2
    student = outputs["stage1"][0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(method, **outputs)
    loss.backward()
    exact = total(method, **{name: [x.detach().float() for x in pair] for name, pair in outputs.items()})
    assert torch.allclose(loss, exact, rtol=1e-2)
    assert student.grad.isfinite().all()


def test_zero_and_equal_maps_have_finite_gradients(total):
    method = prepared(ReviewKD(stages=(1,), middle=6))
    maps, pooled = (torch.zeros(3, 4, *size).double().requires_grad_() for size in ((4, 2), ()))
    loss = total(method, stage1=(maps, maps), pooled=(pooled, pooled))
    loss.backward()
    assert loss.isfinite()
    assert maps.grad.isfinite().all() and pooled.grad.isfinite().all()
