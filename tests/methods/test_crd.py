"""CRD: the authors' numbers over two steps, a loop, the memories, and who is drawn as a negative."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.batch import Batch
from benchmark.methods.crd import CRD


def prepared(labels, student=16, teacher=24, **arguments):
    labels = np.asarray(labels)
    method = CRD(**arguments)
    plan = SimpleNamespace(labels=labels, identities=int(labels.max()) + 1, images=len(labels))
    method.prepare(SimpleNamespace(dim=student), SimpleNamespace(dim=teacher), plan)
    return method.double()


@pytest.fixture
def cost(features):
    def compute(method, student, teacher, indices):
        batch = Batch(None, None, None, indices)
        return method.loss(features(embedding=student), features(embedding=teacher), batch)["crd"]

    return compute


def test_equals_the_authors_values(golden):
    values = golden("crd")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        method = prepared(np.arange(hp["N"]), dim=10, negatives=hp["K"], temperature=hp["tau"], momentum=hp["momentum"])
        layers = {"embed_s": method.embed_student, "embed_t": method.embed_teacher}
        state = {
            f"{name}.{part}": inputs[f"{short}_{part}"]
            for short, name in (("embed_s", "embed_student"), ("embed_t", "embed_teacher"))
            for part in ("weight", "bias")
        }
        state |= {name: inputs[name] for name in ("memory_student", "memory_teacher")}
        if case.endswith("call1"):
            state["log_z"] = torch.tensor(hp["Z_before"], dtype=torch.float64).log()
        method.load_state_dict(method.state_dict() | state)
        contrast = inputs["contrast_index"]
        assert torch.equal(contrast[:, 0], inputs["index"])
        student, teacher = (inputs[name].requires_grad_() for name in ("student", "teacher"))
        loss = method.contrast(student, teacher, inputs["index"], contrast[:, 1:])
        loss.backward()
        gradients = {
            f"{name}_{part}": parameter.grad
            for name, layer in layers.items()
            for part, parameter in layer.named_parameters()
        }
        assert len(gradients) == 4
        values.check(case, loss.detach(), student=student.grad, teacher=teacher.grad, **gradients)
        after = {name: values.arrays[f"{case}/{name}_after"] for name in ("memory_student", "memory_teacher", "Z")}
        assert np.allclose(method.memory_student.numpy(), after["memory_student"], rtol=1e-9, atol=1e-12)
        assert np.allclose(method.memory_teacher.numpy(), after["memory_teacher"], rtol=1e-9, atol=1e-12)
        assert np.allclose(method.log_z.exp().numpy(), after["Z"], rtol=1e-9)


def test_equals_a_loop(draw):
    images, tau = 7, 0.3
    method = prepared(np.arange(images), 3, 4, dim=5, negatives=3, temperature=tau)
    student, teacher = draw((2, 3), (2, 4))
    indices, negatives = torch.tensor([4, 1]), torch.tensor([[0, 2, 0], [6, 5, 4]])
    sides = []
    for x, layer, memory in (
        (student, method.embed_student, method.memory_teacher),
        (teacher, method.embed_teacher, method.memory_student),
    ):
        powers = []
        for b in range(2):
            anchor = layer(x[b]).tolist()
            length = math.sqrt(sum(a * a for a in anchor))
            images_of = [int(indices[b]), *negatives[b].tolist()]
            dots = [sum(a * m for a, m in zip(anchor, memory[i].tolist(), strict=True)) for i in images_of]
            powers.append([math.exp(dot / length / tau) for dot in dots])
        z = images * sum(map(sum, powers)) / 8
        c = 3 / images + 1e-7
        for own, *others in powers:
            sides.append(-math.log(own / z / (own / z + c)))
            sides += [-math.log(3 / images / (other / z + c)) for other in others]
    found = method.contrast(student, teacher, indices, negatives)
    assert found.item() == pytest.approx(sum(sides) / 2, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    labels=st.lists(st.integers(0, 4), min_size=3, max_size=12).filter(lambda labels: len(set(labels)) > 1),
    seed=st.integers(0, 99),
)
def test_negatives_are_all_the_images_of_other_identities_and_no_others(labels, seed):
    torch.manual_seed(seed)
    method = prepared(labels, negatives=400)
    drawn = method.draw(torch.arange(len(labels)))
    for image, found in enumerate(drawn.tolist()):
        others = {i for i, label in enumerate(labels) if label != labels[image]}
        assert set(found) == others


def test_negatives_are_equally_frequent():
    torch.manual_seed(0)
    labels = np.array([2, 0, 1, 0, 2, 2, 1, 0, 3, 0])
    drawn = prepared(labels, negatives=100_000).draw(torch.tensor([3, 8]))
    for image, row in zip((3, 8), drawn, strict=True):
        found = np.bincount(row.numpy(), minlength=10) / 100_000
        expected = (labels != labels[image]) / (labels != labels[image]).sum()
        assert np.abs(found - expected).max() < 0.01


def test_draws_differ_from_step_to_step_and_continue_after_a_kill(cost, draw):
    labels, indices = np.arange(40) // 4, torch.arange(8)
    batches = draw(*[(8, 16), (8, 24)] * 4)
    torch.manual_seed(0)
    first = prepared(labels, negatives=16)
    torch.manual_seed(1)
    second = prepared(labels, negatives=16)
    for step in range(4):
        student, teacher = batches[2 * step : 2 * step + 2]
        if step == 2:
            second.load_state_dict(first.state_dict())
        torch.rand(step)  # what others draw does not matter
        losses = [cost(method, student, teacher, indices) for method in (first, second)]
        assert torch.equal(*losses) == (step >= 2)
    assert not torch.equal(first.draw(indices), first.draw(indices))


def test_only_the_batchs_rows_move_and_z_stays(cost, draw):
    method = prepared(np.arange(40) // 4, negatives=16, dim=8, momentum=0.9)
    indices = torch.tensor([3, 17, 20])
    before = [method.memory_student.clone(), method.memory_teacher.clone()]
    student, teacher = draw((3, 16), (3, 24))
    cost(method, student, teacher, indices)
    z = method.log_z.clone()
    assert z.isfinite().all()
    after = [method.memory_student, method.memory_teacher]
    for old, new, layer, x in zip(
        before, after, (method.embed_student, method.embed_teacher), (student, teacher), strict=True
    ):
        others = torch.ones(40, dtype=torch.bool).index_fill(0, indices, False)
        assert torch.equal(old[others], new[others])
        expected = F.normalize(0.9 * old[indices] + 0.1 * F.normalize(layer(x)))
        assert torch.allclose(new[indices], expected, rtol=1e-12)
    cost(method, 3 * student, -teacher, indices)
    assert torch.equal(method.log_z, z)


def test_an_image_in_several_views_enters_with_the_first(cost, draw):
    student, teacher = draw((4, 16), (4, 24))
    torch.manual_seed(0)
    several = prepared(np.arange(40) // 4, negatives=16)
    torch.manual_seed(0)
    single = prepared(np.arange(40) // 4, negatives=16)
    cost(several, student, teacher, torch.tensor([5, 5, 9, 5]))
    cost(single, student[[0, 2]], teacher[[0, 2]], torch.tensor([5, 9]))
    assert torch.allclose(several.memory_student, single.memory_student, rtol=1e-12)
    assert torch.allclose(several.memory_teacher, single.memory_teacher, rtol=1e-12)


def test_blind_to_the_order_of_the_batch(draw):
    student, teacher = draw((6, 16), (6, 24))
    indices = torch.tensor([3, 17, 20, 0, 39, 8])
    negatives = torch.randint(40, (6, 16), generator=torch.Generator().manual_seed(1))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.manual_seed(0)
    method = prepared(np.arange(40) // 4, negatives=16)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    loss = method.contrast(student, teacher, indices, negatives)
    for mixed, alike in ((order, True), (torch.arange(6), False)):
        method.load_state_dict(before)
        changed = method.contrast(student[order], teacher[mixed], indices[order], negatives[order])
        assert torch.allclose(changed, loss, rtol=1e-9) == alike


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.07, 1e-3])
def test_identical_embeddings_and_a_small_temperature_have_finite_gradients(cost, value, temperature):
    torch.manual_seed(0)
    method = prepared(np.arange(40) // 4, negatives=16, temperature=temperature).float()
    for _ in range(3):
        student = torch.full((6, 16), value, requires_grad=True)
        loss = cost(method, student, torch.full((6, 24), value), torch.arange(6))
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_layers_without_output_pass_no_gradient(cost):
    method = prepared(np.arange(40) // 4, negatives=16).float()
    for parameter in method.parameters():
        parameter.data.zero_()
    student = torch.randn(6, 16, requires_grad=True)
    loss = cost(method, student, torch.randn(6, 24), torch.arange(6))
    loss.backward()
    assert loss.isfinite()
    assert not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 16), (8, 24)))
    student.requires_grad_()
    indices, negatives = torch.arange(8), torch.arange(8, 40).expand(8, 32)
    method = prepared(np.arange(40) // 4, negatives=32).float()
    exact = prepared(np.arange(40) // 4, negatives=32)
    exact.load_state_dict(method.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.contrast(student, teacher, indices, negatives)
    loss.backward()
    assert student.grad.isfinite().all()
    found = exact.contrast(student.detach().double(), teacher.double(), indices, negatives)
    assert loss.item() == pytest.approx(found.item(), rel=1e-5)


def test_every_argument_in_a_step(rig):
    made = rig(CRD(weight=0.5, dim=12, negatives=64, temperature=0.1, momentum=0.25))
    assert made.method.memory_student.shape == (made.plan.images, 12)
    before = made.method.embed_student.weight.clone()
    assert made.step()["loss_crd"] > 0
    assert not torch.equal(made.method.embed_student.weight, before)
