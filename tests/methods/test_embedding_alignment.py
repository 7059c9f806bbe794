"""Methods for asymmetric retrieval train the student into the teacher's embedding space."""

import pytest
import torch

from benchmark.methods.aml import AML
from benchmark.methods.csd import CSD
from benchmark.methods.d3still import D3still
from benchmark.methods.raml import RAML
from benchmark.methods.rop import ROP

LEAST_COSINE = {AML: 0.9, CSD: 0.6, D3still: 0.9, RAML: 0.9, ROP: 0.8}
"""Between student and teacher after 200 steps; the losses differ in how close their minimum is."""
ARGUMENTS = {
    AML: [{"contrastive_weight": 0.5, "margin": 1.0}],
    CSD: [{"top_k": 6, "student_temperature": 0.1, "teacher_temperature": 0.1, "weight": 1.0}],
    D3still: [{"top_k": 4, "feature_weight": 10.0, "hard_weight": 1.0, "easy_weight": 1.0}],
    RAML: [{"relations": "views"}],
    ROP: [{"top_k": 6, "temperature": 0.2, "rank_weight": 0.0, "weight": 2.0}],
}
CASES = [(cls, arguments) for cls in LEAST_COSINE for arguments in [{}, *ARGUMENTS[cls], *cls.presets.values()]]


@pytest.mark.parametrize(("cls", "arguments"), CASES, ids=lambda x: x.name if isinstance(x, type) else str(x))
def test_free_embeddings_approach_the_teacher(total, draw, cls, arguments):
    """Embeddings that nothing but this loss moves; it decides whether student queries fit a teacher gallery."""
    method = cls(**arguments)
    if method.needs.views:
        method.views = 3
    student, teacher = draw((12, 8), (12, 8))
    optimizer = torch.optim.Adam([student.requires_grad_()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        total(method, labels=torch.arange(12) // 3, embedding=(student, teacher)).backward()
        optimizer.step()
    assert torch.cosine_similarity(student.detach(), teacher).mean() > LEAST_COSINE[cls]
