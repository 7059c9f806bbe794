"""Knowledge review: the authors' numbers, a loop over entries, fusion from the deepest level on."""

import math

import pytest
import torch

from benchmark.methods.reviewkd import Fusion, ReviewKD, hcl
from benchmark.model.embedder import Embedder


def prepared(method: ReviewKD, inputs, outputs) -> ReviewKD:
    method.prepare(*(Embedder("resnet18", args={"channels": list(widths)}) for widths in (inputs, outputs)), None)
    return method.double()


def test_hcl_equals_the_authors_values(golden):
    values = golden("reviewkd_hcl")
    for case in values.cases:
        inputs, levels = values.inputs(case), range(values.meta[case]["hp"]["levels"])
        students = [inputs[f"student{j}"].requires_grad_() for j in levels]
        loss = sum(hcl(student, inputs[f"teacher{j}"]) for j, student in enumerate(students))
        loss.backward()
        values.check(case, loss.detach(), **{f"student{j}": students[j].grad for j in levels})


def test_equals_the_authors_values(golden, features):
    values = golden("reviewkd")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        students = [inputs[f"student{j}"].requires_grad_() for j in range(3)]
        teachers = [inputs[f"teacher{j}"] for j in range(3)]
        method = prepared(ReviewKD(1.0, (2, 3), hp["mid"]), (4, 5, 7, 7), (4, 8, 9, 10))
        assert len(method.fusions) == 3
        for j, fusion in enumerate(method.fusions):
            layers = {"conv1": fusion.reduce[0], "bn1": fusion.reduce[1]}
            layers |= {"conv2": fusion.expand[0], "bn2": fusion.expand[1], "att": fusion.attend}
            assert fusion.reduce[1].eps == fusion.expand[1].eps == hp["bn_eps"]
            assert (fusion.attend is None) == (j == 2)
            for name, layer in layers.items():
                if layer is None:
                    continue
                if name.startswith("conv"):
                    assert layer.weight.shape == inputs[f"{name}_{j}"].shape
                    layer.weight.data = inputs[f"{name}_{j}"]
                else:
                    layer.weight.data, layer.bias.data = inputs[f"{name}_weight_{j}"], inputs[f"{name}_bias_{j}"]
        said = (
            features(taps={"stage2": maps[0], "stage3": maps[1]}, pooled=maps[2][:, :, 0, 0])
            for maps in (students, teachers)
        )
        loss = method.loss(*said, None)["reviewkd"]
        loss.backward()
        values.check(case, loss.detach(), **{f"student{j}": students[j].grad for j in range(3)})
        for j, output in enumerate(method.review(students, teachers)):
            if f"{case}/out{j}" in values.arrays.files:
                expected = torch.from_numpy(values.arrays[f"{case}/out{j}"])
                torch.testing.assert_close(output.detach(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [(7, 5), (4, 6), (2, 9), (1, 1)])
def test_hcl_equals_a_loop(draw, size):
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


def test_hcl_sees_a_common_shift_more_than_noise(draw):
    teacher, noise = draw((4, 3, 8, 4), (4, 3, 8, 4))
    noise = noise / noise.square().mean().sqrt()
    assert hcl(teacher, teacher).item() == 0
    assert hcl(teacher + 1, teacher).item() == pytest.approx(1, rel=1e-9)
    assert hcl(teacher + noise, teacher).item() < 0.7
    assert torch.allclose(hcl(5 * teacher, 5 * noise), 25 * hcl(teacher, noise), rtol=1e-9)


def test_fusion_is_a_share_of_each_at_every_position(draw):
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


def test_a_level_learns_from_the_shallower_ones_but_not_from_the_deeper(draw):
    method = prepared(ReviewKD(stages=(1, 2), middle=6, pooled=False), (3, 4, 4, 4), (5, 6, 4, 4))
    student = [maps.requires_grad_() for maps in draw((3, 3, 8, 4), (3, 4, 4, 2))]
    shallow, deep = method.review(student, draw((3, 5, 8, 4), (3, 6, 4, 2)))
    reached = [
        torch.autograd.grad(out.square().sum(), student, retain_graph=True, allow_unused=True)
        for out in (shallow, deep)
    ]
    assert all(gradient.any() for gradient in reached[0])
    assert reached[1][0] is None and reached[1][1].any()


def test_works_with_maps_of_any_two_sizes(features, draw):
    method = prepared(ReviewKD(2.0, (1, 3), middle=6, pooled=False), (3, 4, 4, 4), (5, 6, 7, 4))
    said = [
        features(taps=dict(zip(("stage1", "stage3"), draw(*shapes), strict=True)))
        for shapes in (((3, 3, 8, 4), (3, 4, 2, 1)), ((3, 5, 12, 6), (3, 7, 3, 3)))
    ]
    loss = method.loss(*said, None)["reviewkd"]
    outputs = method.review(method._levels(said[0]), method._levels(said[1]))
    expected = 2 * sum(hcl(*pair) for pair in zip(outputs, said[1].taps.values(), strict=True))
    assert torch.allclose(loss, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_near(features, dtype):
    method = prepared(ReviewKD(stages=(1, 2), middle=6), (4, 4, 4, 4), (4, 4, 4, 4)).float()
    shapes = {"stage1": (6, 4, 8, 4), "stage2": (6, 4, 4, 2)}
    drawn = [{name: (30 * torch.randn(shape)).to(dtype) for name, shape in shapes.items()} for _ in range(2)]
    pooled = torch.randn(6, 4).to(dtype)

    def cost(student, teacher, vector):
        return method.loss(features(taps=student, pooled=vector), features(taps=teacher, pooled=vector), None)[
            "reviewkd"
        ]

    drawn[0]["stage1"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(*drawn, pooled)
    loss.backward()
    floats = ({name: maps.detach().float() for name, maps in taps.items()} for taps in drawn)
    assert torch.allclose(loss, cost(*floats, pooled.float()), rtol=1e-2)
    assert drawn[0]["stage1"].grad.isfinite().all()


def test_equal_and_zero_maps_have_finite_gradients(features):
    method = prepared(ReviewKD(stages=(1,), middle=6), (4, 4, 4, 4), (4, 4, 4, 4))
    maps, pooled = (torch.zeros(3, 4, *size).double().requires_grad_() for size in ((4, 2), ()))
    said = features(taps={"stage1": maps}, pooled=pooled)
    loss = method.loss(said, said, None)["reviewkd"]
    loss.backward()
    assert loss.isfinite()
    assert maps.grad.isfinite().all() and pooled.grad.isfinite().all()


def test_every_fusion_learns_in_training(rig):
    method = ReviewKD(stages=(2, 4), middle=8)
    made = rig(method)
    before = [parameter.clone() for parameter in method.parameters()]
    made.step()
    assert len(method.fusions) == 3
    assert all(not torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
