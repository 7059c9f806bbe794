"""What methods have in common that draw the student's embeddings into the teacher's space and read nothing else."""

import pytest
import torch

from benchmark.method import Method
from benchmark.methods.csd import CSD
from benchmark.methods.d3still import D3still
from benchmark.methods.raml import RAML
from benchmark.methods.rop import ROP

METHODS = [CSD(), D3still(), RAML(), ROP()]
LEAST_COSINE = {CSD: 0.6, D3still: 0.9, RAML: 0.9, ROP: 0.8}
"""Between student and teacher after 200 steps; the definitions differ in how close they ask for."""
OTHERS = [CSD(6, 0.1, 0.1, 1.0), D3still(4, 10.0, 1.0, 1.0), ROP(6, 0.2, 0.0, 2.0)]
BY_VIEWS = RAML(relations="views")
BY_VIEWS.views = 3
PRESETS = [type(method)(**given) for method in METHODS for given in type(method).presets.values()]
for preset in PRESETS:
    if preset.needs.views:
        preset.views = 3


@pytest.fixture
def total(features):
    """`total(method, student, teacher)`: the sum of its terms for these embeddings."""

    def add(method: Method, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return sum(method.loss(features(embedding=student), features(embedding=teacher), None).values())

    return add


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
@pytest.mark.parametrize("method", METHODS)
def test_identical_and_nearly_identical_embeddings_have_finite_gradients(total, method, value, noise):
    student, teacher = (torch.full((6, 4), value) + noise * torch.randn(6, 4) for _ in range(2))
    loss = total(method, student.requires_grad_(), teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    if value:
        assert student.grad.abs().max() < 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_short_floats_and_autocast_stay_near(total, method, dtype):
    student, teacher = ((300 * torch.randn(8, 64)).to(dtype).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(method, student, teacher.detach())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, total(method, student.detach().float(), teacher.detach().float()), rtol=1e-5)


@pytest.mark.parametrize("method", [*METHODS, *OTHERS, BY_VIEWS, *PRESETS])
def test_aligns_the_student_with_the_teacher(draw, total, method):
    """Free embeddings, and nothing but this loss: what makes the student's queries fit the teacher's gallery."""
    student, teacher = draw((12, 8), (12, 8))
    optimizer = torch.optim.Adam([student.requires_grad_()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        total(method, student, teacher).backward()
        optimizer.step()
    assert torch.cosine_similarity(student.detach(), teacher).mean() > LEAST_COSINE[type(method)]
