"""torch's label smoothing is that of CDD's identity loss: (1 - eps) onehot + eps / C."""

import torch.nn.functional as F


def test_golden(golden):
    values = golden("cdd_cross_entropy")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        loss = F.cross_entropy(student, inputs["target"], label_smoothing=values.meta[case]["hp"]["epsilon"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)
