"""The divergence of knowledge distillation."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.precision import at_least_float32


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 / B * sum_b KL(p_t || p_s) with p = softmax(z / T): the teacher is the target, natural logarithm.

    The factor T^2 keeps the gradient's size independent of the temperature (Hinton, Vinyals, Dean, 2015).

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.

    Returns:
        A scalar, 0 where both distributions agree.
    """
    student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
