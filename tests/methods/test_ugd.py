"""UGD: the authors' numbers, a loop over cells, which cells count, where the teacher's head comes from."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.methods.ugd import UGD, projector
from benchmark.model.embedder import Embedder

WIDE = {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 24], "stem_width": 8}}


def made(dim: int, channels: int, grid: tuple[int, int], **given) -> UGD:
    """The method as `prepare` leaves it, in float64."""
    method = UGD(**given)
    method.grids = [grid, (max(1, grid[0] // 2), max(1, grid[1] // 2))]
    method.projectors = nn.ModuleList(projector(channels, dim) for _ in method.grids)
    return method.double()


def judge(feature: Tensor, score: Tensor):
    return lambda cells: (cells @ feature.T, cells @ feature.T @ score.T)


def batch_of(labels: Tensor) -> Batch:
    return Batch(torch.empty(0), labels, torch.empty(0), torch.empty(0))


@pytest.mark.parametrize("case", ["pk", "shuffled", "eval_bn", "none_correct"])
def test_equals_the_authors_values(golden, features, case):
    values = golden("ugd")
    assert case in values.cases
    inputs, hp = values.inputs(case), values.meta[case]["hp"]
    method = made(12, 5, (hp["P"], hp["P"]), global_weight=hp["alpha"], local_weight=hp["beta"])
    method.cell_head = judge(inputs["head_feature"], inputs["head_score"])
    for project, prefix in zip(method.projectors, ("proj", "half"), strict=True):
        first, linear, last = project
        linear.weight.data = inputs[f"{prefix}_weight"]
        for norm, name in ((first, "bn0"), (last, "bn1")):
            norm.weight.data, norm.bias.data = inputs[f"{prefix}_{name}_weight"], inputs[f"{prefix}_{name}_bias"]
            norm.running_mean, norm.running_var = inputs[f"{prefix}_{name}_mean"], inputs[f"{prefix}_{name}_var"]
    method.train(bool(hp["bn_train"]))
    student, maps = inputs["student"].requires_grad_(), inputs["student_map"].requires_grad_()
    terms = method.loss(
        features(embedding=student, taps={"stage3": maps}),
        features(embedding=inputs["teacher"], taps={"stage4": inputs["teacher_map"]}),
        batch_of(inputs["target"]),
    )
    loss = sum(terms.values())
    loss.backward()
    values.check(case, loss.detach(), student=student.grad, student_map=maps.grad)
    assert (terms["ugd_local"] == 0) == (case == "none_correct")


def cell_means(maps: Tensor, grid: tuple[int, int]) -> list[list[Tensor]]:
    """Per image, its cells row by row; the map's sides are multiples of the grid's."""
    high, wide = maps.shape[2] // grid[0], maps.shape[3] // grid[1]
    return [
        [
            image[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide].mean((1, 2))
            for i in range(grid[0])
            for j in range(grid[1])
        ]
        for image in maps
    ]


def test_equals_a_loop_over_cells(features, draw):
    """Maps of other sizes than each other, not square, and cells of which some count."""
    student, teacher, maps, models, feature, score = draw((4, 7), (4, 7), (4, 5, 4, 8), (4, 6, 8, 8), (7, 6), (3, 7))
    labels = torch.tensor([0, 1, 2, 0])
    method = made(7, 5, (2, 4), global_weight=3.0, local_weight=5.0).eval()
    method.cell_head = judge(feature, score)
    local, counts = 0.0, []
    for project, grid in zip(method.projectors, method.grids, strict=True):
        distances = []
        for label, own, theirs in zip(labels, cell_means(maps, grid), cell_means(models, grid), strict=True):
            for s, t in zip(own, theirs, strict=True):
                if int((score @ feature @ t).argmax()) == label:
                    t, s = feature @ t, project(s[None])[0]
                    distances.append((t / t.norm() - s / s.norm()).norm().item())
        local += sum(distances) / len(distances)
        counts.append(len(distances))
    assert 0 < counts[0] < 32
    whole = sum(float((t / t.norm() - s / s.norm()).norm()) for s, t in zip(student, teacher, strict=True)) / 4
    terms = method.loss(
        features(embedding=student, taps={"stage3": maps}),
        features(embedding=teacher, taps={"stage4": models}),
        batch_of(labels),
    )
    assert terms["ugd_global"].item() == pytest.approx(3 * whole, rel=1e-9)
    assert terms["ugd_local"].item() == pytest.approx(5 * local, rel=1e-9)


def setting(rows: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(3)
    shapes = ((rows, 7), (rows, 7), (rows, 5, 4, 4), (rows, 6, 4, 4))
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    method = made(7, 5, (2, 2)).to(dtype)
    method.cell_head = judge(*(torch.randn(*shape, generator=generator).to(dtype) for shape in ((7, 6), (3, 7))))
    return method, tensors, torch.arange(rows) % 3


def total(method, features, tensors, labels) -> Tensor:
    student, teacher, maps, models = tensors
    terms = method.loss(
        features(embedding=student, taps={"stage3": maps}),
        features(embedding=teacher, taps={"stage4": models}),
        batch_of(labels),
    )
    return sum(terms.values())


def test_blind_to_order_and_to_the_scale_of_both_but_not_to_a_rotation(features):
    method, tensors, labels = setting(6)
    expected = total(method, features, tensors, labels)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    assert torch.allclose(total(method, features, [x[order] for x in tensors], labels[order]), expected, rtol=1e-9)
    scaled = [tensors[0] * 7, tensors[1] * 0.1, *tensors[2:]]
    assert torch.allclose(total(method, features, scaled, labels), expected, rtol=1e-9)
    rolled = [tensors[0].roll(1, dims=1), *tensors[1:]]
    assert not torch.allclose(total(method, features, rolled, labels), expected, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_embeddings_and_maps_have_finite_gradients(features, value):
    method, tensors, labels = setting(6, torch.float32)
    tensors = [torch.full_like(x, value) for x in tensors]
    student, maps = tensors[0].requires_grad_(), tensors[2].requires_grad_()
    loss = total(method, features, tensors, labels)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert maps.grad.isfinite().all()
    assert student.grad.abs().max() < 10
    assert all(weight.grad.isfinite().all() for weight in method.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_near(features, dtype):
    method, tensors, labels = setting(6, torch.float32)
    short = [x.to(dtype) for x in tensors]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(method, features, short, labels)
    exact = total(method, features, [x.float() for x in short], labels)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, exact, rtol=1e-5)


def test_the_teachers_head_is_its_neck_and_classifier_on_a_cell_as_if_it_were_an_image(rig):
    student = rig(UGD(), **WIDE)
    cells = student.batches[0].images
    with torch.no_grad():
        said = student.teacher.features(cells)
        maps = said.taps["stage4"]
        embedding, scores = student.method.cell_head(F.adaptive_avg_pool2d(maps, 1).flatten(1))
    assert torch.allclose(embedding, said.embedding, rtol=0, atol=1e-5)
    assert torch.allclose(scores, said.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "network", "grids"),
    [
        ({}, WIDE, [(2, 2), (1, 1)]),
        ({"stage": 4}, WIDE | {"pool": "gem"}, [(2, 2), (1, 1)]),
        ({"stage": 1}, {"backbone": "resnet18", "args": {"channels": [8, 8, 8, 8]}}, [(2, 2), (1, 1)]),
    ],
)
def test_learns_with_projectors_of_its_own(rig, given, network, grids):
    made = rig(UGD(**given), **network)
    assert made.method.grids == grids
    before = [weight.clone() for weight in made.method.parameters()]
    with torch.no_grad():  # an untrained teacher is right about what it says
        said = made.teacher.features(made.batches[0].images).logits.argmax(dim=1)
    made.batches = [made.batches[0]._replace(labels=said)]
    losses = made.step()
    assert losses["loss_ugd_global"] > 0
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_ugd_local"] > 0
    assert len(before) == 10
    moved = [not torch.equal(a, b) for a, b in zip(before, made.method.parameters(), strict=True)]
    assert all(moved)


def test_the_grid_follows_the_students_image(rig):
    made = rig(UGD(), **WIDE)
    tall = replace(made.plan, image_size=(96, 64))
    method = UGD()
    method.prepare(made.student, made.teacher, tall)
    assert method.grids == [(6, 4), (3, 2)]
    made.student.image_size = (48, 32)
    method.prepare(made.student, made.teacher, tall)
    assert method.grids == [(3, 2), (1, 1)]


def test_a_teacher_with_layers_behind_its_last_stage_is_refused(plan):
    plan = replace(plan, image_size=(64, 64))
    with torch.device("meta"):
        fitting, other = (
            Embedder(name, dim=16, identities=40) for name in ("mobilenetv3_small_050", "efficientnet_lite0")
        )
    UGD().check(fitting, fitting, plan)  # whose layers come behind the pooling
    with pytest.raises(UserError, match="in efficientnet_lite0 further layers follow"):
        UGD().check(fitting, other, plan)
