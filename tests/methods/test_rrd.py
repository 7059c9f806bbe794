"""RRD: a naive loop, and the queue."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmark import UserError
from benchmark.methods.rrd import RRD


def prepared(student_dim=3, teacher_dim=4, **arguments):
    method = RRD(**{"dim": 5, "queue_size": 7} | arguments)
    method.prepare(SimpleNamespace(dim=student_dim), SimpleNamespace(dim=teacher_dim), None)
    return method.double()


def unit(x):
    return (x / x.norm(dim=1, keepdim=True)).tolist()


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def test_matches_naive_loop(total, draw):
    student, teacher = draw((2, 3), (2, 4))
    method = prepared(weight=2.0, student_temperature=0.5, teacher_temperature=0.3)
    v_s = unit(method.embed_student(student).detach())
    v_t = unit(teacher @ method.teacher_weight.T + method.teacher_bias)
    queue = [*v_t, *method.queue.tolist()[2:]]
    expected = 0.0
    for s, t in zip(v_s, v_t, strict=True):
        q, p = ([math.exp(dot(v, row) / tau) for row in queue] for v, tau in ((s, 0.5), (t, 0.3)))
        expected -= sum(b / sum(p) * math.log(a / sum(q)) for a, b in zip(q, p, strict=True)) / 2
    loss = total(method, embedding=(student, teacher))
    assert loss.item() == pytest.approx(2 * expected, rel=1e-9)


def test_queue_holds_the_latest_embeddings(total, draw):
    """Batches of 3 rows fill a queue of 7 in a ring."""
    method = prepared()
    start, latest = method.queue.tolist(), []
    for teacher in draw((3, 4), (3, 4), (3, 4)):
        latest += unit(teacher @ method.teacher_weight.T + method.teacher_bias)
        total(method, embedding=(torch.ones(3, 3).double(), teacher))
        if len(latest) == 3:
            assert method.queue.tolist()[3:] == start[3:]
    assert torch.allclose(method.queue, torch.tensor([*latest[7:], *latest[2:7]]).double())
    assert method.pointer == 2


def test_starts_with_rows_of_unit_length():
    assert torch.allclose(prepared(queue_size=50).queue.norm(dim=1), torch.ones(50).double())


def test_teacher_projection_is_not_trained(rig):
    made = rig(RRD())
    before = made.method.teacher_weight.clone()
    made.step()
    assert {name.split(".")[0] for name, _ in made.method.named_parameters()} == {"embed_student"}
    assert torch.equal(made.method.teacher_weight, before)


def test_queue_that_does_not_hold_a_batch_is_refused(rig):
    made = rig(RRD())
    with pytest.raises(UserError, match=r"method.queue_size: 31 rows do not hold a batch of 32 images"):
        RRD(queue_size=31).check(made.student, made.teacher, made.plan)
