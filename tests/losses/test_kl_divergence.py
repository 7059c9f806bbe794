"""The KL divergence: a naive loop, half precision, constant logits."""

import math

import pytest
import torch

from benchmark.losses import kl_divergence


def test_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(4, 5, generator=generator).double() for _ in range(2))
    temperature, expected = 3.0, 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = ([math.exp(x / temperature) for x in row] for row in (s, t))
        for q_s, q_t in zip(p_s, p_t, strict=True):
            q_s, q_t = q_s / sum(p_s), q_t / sum(p_t)
            expected += temperature**2 / 4 * q_t * math.log(q_t / q_s)
    assert kl_divergence(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    student = torch.tensor([[600.0, -600.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = kl_divergence(student, -student.detach(), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_invariant_to_a_constant_added_to_the_logits():
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    assert torch.allclose(kl_divergence(student + 7, teacher - 3, 2.0), kl_divergence(student, teacher, 2.0), atol=1e-5)
