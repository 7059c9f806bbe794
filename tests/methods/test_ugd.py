"""UGD: a naive loop over cells, invariances, the grids, and the teacher's head."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark import Embedder, UserError
from benchmark.methods.ugd import UGD, projector

LABELS = torch.arange(6) % 3
WIDE = {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 24], "stem_width": 8}}


def prepared(grid, feature, score, **arguments):
    """Return UGD as prepared for 5 channels, 7 dimensions and this linear head, with its finer grid given."""
    method = UGD(**arguments)
    method.grids = [grid, (max(1, grid[0] // 2), max(1, grid[1] // 2))]
    method.projectors = nn.ModuleList(projector(5, 7) for _ in method.grids)
    method.cell_head = lambda cells: (cells @ feature.T, cells @ feature.T @ score.T)
    return method.to(feature.dtype)


def cell_means(maps, grid):
    """Return the cells of each image row by row; the sides of the map are multiples of the grid's."""
    height, width = maps.shape[2] // grid[0], maps.shape[3] // grid[1]
    return [
        [
            image[:, i * height : (i + 1) * height, j * width : (j + 1) * width].mean((1, 2))
            for i in range(grid[0])
            for j in range(grid[1])
        ]
        for image in maps
    ]


def test_matches_naive_loop(terms, draw):
    """Maps of different sizes, not square, where the teacher classifies some of the cells correctly."""
    student, teacher, s_maps, t_maps = draw((4, 7), (4, 7), (4, 5, 4, 8), (4, 6, 8, 8))
    feature, score = draw((7, 6), (3, 7), seed=2)
    labels = torch.tensor([0, 1, 2, 0])
    method = prepared((2, 4), feature, score, global_weight=3.0, local_weight=5.0).eval()
    local, counts = 0.0, []
    for project, grid in zip(method.projectors, method.grids, strict=True):
        distances = []
        for label, s_cells, t_cells in zip(labels, cell_means(s_maps, grid), cell_means(t_maps, grid), strict=True):
            for s, t in zip(s_cells, t_cells, strict=True):
                if int((score @ feature @ t).argmax()) == label:
                    t, s = feature @ t, project(s[None])[0]
                    distances.append((t / t.norm() - s / s.norm()).norm().item())
        local += sum(distances) / len(distances)
        counts.append(len(distances))
    assert 0 < counts[0] < 32
    images = sum(float((t / t.norm() - s / s.norm()).norm()) for s, t in zip(student, teacher, strict=True)) / 4
    maps = {"stage3": (s_maps, None), "stage4": (None, t_maps)}
    loss = terms(method, labels=labels, embedding=(student, teacher), **maps)
    assert loss["ugd_global"].item() == pytest.approx(3 * images, rel=1e-9)
    assert loss["ugd_local"].item() == pytest.approx(5 * local, rel=1e-9)


@pytest.fixture
def setting(draw, total):
    """A method in a data type, the outputs of both networks, and `loss(outputs, labels)`."""

    def make(dtype=torch.float64):
        tensors = [x.to(dtype) for x in draw((6, 7), (6, 7), (6, 5, 4, 4), (6, 6, 4, 4), (7, 6), (3, 7), seed=3)]
        method = prepared((2, 2), *tensors[4:])

        def loss(outputs, labels=LABELS):
            student, teacher, s_maps, t_maps = outputs
            maps = {"stage3": (s_maps, None), "stage4": (None, t_maps)}
            return total(method, labels=labels, embedding=(student, teacher), **maps)

        return method, tensors[:4], loss

    return make


def test_invariances(setting):
    _, outputs, loss = setting()
    expected = loss(outputs)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    assert torch.allclose(loss([x[order] for x in outputs], LABELS[order]), expected, rtol=1e-9)
    assert torch.allclose(loss([outputs[0] * 7, outputs[1] * 0.1, *outputs[2:]]), expected, rtol=1e-9)
    rotated = [outputs[0].roll(1, dims=1), *outputs[1:]]
    assert not torch.allclose(loss(rotated), expected, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_outputs_have_bounded_gradients(setting, value):
    method, outputs, loss = setting(torch.float32)
    outputs = [torch.full_like(x, value) for x in outputs]
    student, maps = outputs[0].requires_grad_(), outputs[2].requires_grad_()
    computed = loss(outputs)
    computed.backward()
    assert computed.isfinite()
    assert student.grad.isfinite().all()
    assert maps.grad.isfinite().all()
    assert student.grad.abs().max() < 10
    assert all(weight.grad.isfinite().all() for weight in method.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_equals_float32(setting, dtype):
    _, outputs, loss = setting(torch.float32)
    short = [x.to(dtype) for x in outputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = loss(short)
    assert computed.dtype == torch.float32
    assert torch.allclose(computed, loss([x.float() for x in short]), rtol=1e-5)


def test_cell_head_is_the_neck_and_classifier_of_the_teacher(rig):
    running = rig(UGD(), **WIDE)
    with torch.no_grad():
        outputs = running.teacher.features(running.batches[0].images)
        embedding, logits = running.method.cell_head(F.adaptive_avg_pool2d(outputs.taps["stage4"], 1).flatten(1))
    assert torch.allclose(embedding, outputs.embedding, rtol=0, atol=1e-5)
    assert torch.allclose(logits, outputs.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "network"),
    [
        ({}, WIDE),
        ({"stage": 4}, WIDE | {"pool": "gem"}),
        ({"stage": 1}, {"backbone": "resnet18", "args": {"channels": [8, 8, 8, 8]}}),
    ],
    ids=["default", "gem", "stage 1"],
)
def test_step_trains_the_projectors(rig, arguments, network):
    running = rig(UGD(**arguments), **network)
    assert running.method.grids == [(2, 2), (1, 1)]
    before = [weight.clone() for weight in running.method.parameters()]
    with torch.no_grad():  # labels with which an untrained teacher is correct
        labels = running.teacher.features(running.batches[0].images).logits.argmax(dim=1)
    running.batches = [running.batches[0]._replace(labels=labels)]
    losses = running.step()
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_ugd_global"] > 0
    assert losses["loss_ugd_local"] > 0
    assert len(before) == 10
    assert not any(torch.equal(old, new) for old, new in zip(before, running.method.parameters(), strict=True))


def test_grids_follow_the_image_of_the_student(rig):
    running = rig(UGD(), **WIDE)
    tall = replace(running.plan, image_size=(96, 64))
    method = UGD()
    method.prepare(running.student, running.teacher, tall)
    assert method.grids == [(6, 4), (3, 2)]
    running.student.image_size = (48, 32)
    method.prepare(running.student, running.teacher, tall)
    assert method.grids == [(3, 2), (1, 1)]


def test_rejects_a_teacher_with_layers_after_its_last_stage(plan):
    with torch.device("meta"):
        pooled, other = (
            Embedder(name, dim=16, identities=40) for name in ("mobilenetv3_small_050", "efficientnet_lite0")
        )
    large = replace(plan, image_size=(64, 64))
    UGD().check(pooled, pooled, large)  # its further layers follow the pooling
    with pytest.raises(UserError, match="in efficientnet_lite0 further layers follow"):
        UGD().check(pooled, other, large)
