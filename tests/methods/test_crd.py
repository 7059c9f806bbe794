"""CRD: a naive loop, the memories, the drawing of negatives, and extreme inputs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.crd import CRD

LABELS = np.arange(40) // 4
"""Ten identities with four images each."""


def prepared(labels=LABELS, student_dim=16, teacher_dim=24, **arguments):
    labels = np.asarray(labels)
    method = CRD(**{"negatives": 16} | arguments)
    plan = SimpleNamespace(labels=labels, identities=int(labels.max()) + 1, images=len(labels))
    method.prepare(SimpleNamespace(dim=student_dim), SimpleNamespace(dim=teacher_dim), plan)
    return method.double()


def test_matches_naive_loop(draw):
    images, tau = 7, 0.3
    method = prepared(np.arange(images), 3, 4, dim=5, negatives=3, temperature=tau)
    student, teacher = draw((2, 3), (2, 4))
    indices, negatives = torch.tensor([4, 1]), torch.tensor([[0, 2, 0], [6, 5, 4]])
    terms = []
    for x, layer, memory in (
        (student, method.embed_student, method.memory_teacher),
        (teacher, method.embed_teacher, method.memory_student),
    ):
        powers = []
        for b in range(2):
            anchor = layer(x[b]).tolist()
            length = math.sqrt(sum(a * a for a in anchor))
            contrasted = [int(indices[b]), *negatives[b].tolist()]
            dots = [sum(a * m for a, m in zip(anchor, memory[i].tolist(), strict=True)) for i in contrasted]
            powers.append([math.exp(dot / length / tau) for dot in dots])
        z = images * sum(map(sum, powers)) / 8
        c = 3 / images + 1e-7
        for own, *others in powers:
            terms.append(-math.log(own / z / (own / z + c)))
            terms += [-math.log(3 / images / (other / z + c)) for other in others]
    loss = method.contrast(student, teacher, indices, negatives)
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-9)


class TestNegatives:
    @settings(deadline=None, max_examples=25)
    @given(
        labels=st.lists(st.integers(0, 4), min_size=3, max_size=12).filter(lambda labels: len(set(labels)) > 1),
        seed=st.integers(0, 99),
    )
    def test_are_all_images_of_other_identities(self, labels, seed):
        torch.manual_seed(seed)
        drawn = prepared(labels, negatives=400).draw(torch.arange(len(labels)))
        for image, negatives in enumerate(drawn.tolist()):
            assert set(negatives) == {i for i, label in enumerate(labels) if label != labels[image]}

    def test_are_equally_frequent(self):
        torch.manual_seed(0)
        labels = np.array([2, 0, 1, 0, 2, 2, 1, 0, 3, 0])
        drawn = prepared(labels, negatives=100_000).draw(torch.tensor([3, 8]))
        for image, row in zip((3, 8), drawn, strict=True):
            frequency = np.bincount(row.numpy(), minlength=10) / 100_000
            expected = (labels != labels[image]) / (labels != labels[image]).sum()
            assert np.abs(frequency - expected).max() < 0.01

    def test_differ_between_steps_and_continue_after_a_restart(self, total, draw):
        indices = torch.arange(8)
        batches = draw(*[(8, 16), (8, 24)] * 4)
        torch.manual_seed(0)
        first = prepared()
        torch.manual_seed(1)
        second = prepared()
        for step in range(4):
            embedding = batches[2 * step : 2 * step + 2]
            if step == 2:
                second.load_state_dict(first.state_dict())
            torch.rand(step)  # random numbers drawn elsewhere do not matter
            losses = [total(method, indices=indices, embedding=embedding) for method in (first, second)]
            assert torch.equal(*losses) == (step >= 2)
        assert not torch.equal(first.draw(indices), first.draw(indices))


class TestMemory:
    def test_only_rows_of_the_batch_move_and_z_stays_constant(self, total, draw):
        method = prepared(dim=8, momentum=0.9)
        indices = torch.tensor([3, 17, 20])
        before = [method.memory_student.clone(), method.memory_teacher.clone()]
        student, teacher = draw((3, 16), (3, 24))
        total(method, indices=indices, embedding=(student, teacher))
        z = method.log_z.clone()
        assert z.isfinite().all()
        after = [method.memory_student, method.memory_teacher]
        layers = method.embed_student, method.embed_teacher
        for old, new, layer, x in zip(before, after, layers, (student, teacher), strict=True):
            others = torch.ones(40, dtype=torch.bool).index_fill(0, indices, False)
            assert torch.equal(old[others], new[others])
            expected = F.normalize(0.9 * old[indices] + 0.1 * F.normalize(layer(x)))
            assert torch.allclose(new[indices], expected, rtol=1e-12)
        total(method, indices=indices, embedding=(3 * student, -teacher))
        assert torch.equal(method.log_z, z)

    def test_is_updated_with_the_first_view_of_an_image(self, total, draw):
        student, teacher = draw((4, 16), (4, 24))
        torch.manual_seed(0)
        several = prepared()
        torch.manual_seed(0)
        single = prepared()
        total(several, indices=torch.tensor([5, 5, 9, 5]), embedding=(student, teacher))
        total(single, indices=torch.tensor([5, 9]), embedding=(student[[0, 2]], teacher[[0, 2]]))
        assert torch.allclose(several.memory_student, single.memory_student, rtol=1e-12)
        assert torch.allclose(several.memory_teacher, single.memory_teacher, rtol=1e-12)


def test_invariant_to_order_of_batch(draw):
    student, teacher = draw((6, 16), (6, 24))
    indices, order = torch.tensor([3, 17, 20, 0, 39, 8]), torch.tensor([4, 2, 0, 5, 1, 3])
    negatives = torch.randint(40, (6, 16), generator=torch.Generator().manual_seed(1))
    method = prepared()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    loss = method.contrast(student, teacher, indices, negatives)
    for teacher_order, equal in ((order, True), (torch.arange(6), False)):
        method.load_state_dict(before)
        changed = method.contrast(student[order], teacher[teacher_order], indices[order], negatives[order])
        assert torch.allclose(changed, loss, rtol=1e-9) == equal


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.07, 1e-3])
def test_identical_embeddings_have_finite_gradients(total, value, temperature):
    method = prepared(temperature=temperature).float()
    for _ in range(3):
        student = torch.full((6, 16), value, requires_grad=True)
        loss = total(method, indices=torch.arange(6), embedding=(student, torch.full((6, 24), value)))
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_layers_without_output_pass_no_gradient(total):
    method = prepared().float()
    for parameter in method.parameters():
        parameter.data.zero_()
    student = torch.randn(6, 16, requires_grad=True)
    loss = total(method, indices=torch.arange(6), embedding=(student, torch.randn(6, 24)))
    loss.backward()
    assert loss.isfinite()
    assert not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_equals_float64(draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 16), (8, 24)))
    indices, negatives = torch.arange(8), torch.arange(8, 40).expand(8, 32)
    method, exact = prepared(negatives=32).float(), prepared(negatives=32)
    exact.load_state_dict(method.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.contrast(student.requires_grad_(), teacher, indices, negatives)
    loss.backward()
    assert student.grad.isfinite().all()
    expected = exact.contrast(student.detach().double(), teacher.double(), indices, negatives)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_memory_has_a_unit_row_per_training_image(rig):
    running = rig(CRD(dim=12))
    for memory in (running.method.memory_student, running.method.memory_teacher):
        assert memory.shape == (running.plan.images, 12)
        assert torch.allclose(memory.norm(dim=1), torch.ones(running.plan.images))
