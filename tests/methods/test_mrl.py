"""MRL: a naive loop, default lengths, errors, and embeddings whose prefixes are trained."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmark import METHODS, UserError
from benchmark.methods.mrl import MRL, default_lengths


def prepared(dim, identities, **arguments):
    method = MRL(**arguments)
    method.prepare(SimpleNamespace(dim=dim), None, SimpleNamespace(identities=identities))
    return method.double()


@pytest.mark.parametrize("shared", [False, True])
def test_matches_naive_loop(terms, draw, shared):
    (student,) = draw((4, 6))
    labels = torch.tensor([2, 0, 1, 2])
    method = prepared(6, 3, lengths=(2, 5), importance=(1.0, 0.5), shared=shared, label_smoothing=0.3, weight=4.0)
    expected = {}
    for k, length in enumerate((2, 5)):
        layer = method.classifiers[0 if shared else k]
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        loss = 0.0
        for x, y in zip(student.tolist(), labels.tolist(), strict=True):
            logits = [sum(weight[c][d] * x[d] for d in range(length)) + bias[c] for c in range(3)]
            log_sum = math.log(sum(map(math.exp, logits)))
            loss -= sum((0.7 * (c == y) + 0.1) * (logits[c] - log_sum) for c in range(3)) / 4
        expected[f"mrl_{length}"] = 4 * (1.0, 0.5)[k] * loss
    computed = terms(method, labels=labels, embedding=(student, None))
    assert {name: term.item() for name, term in computed.items()} == pytest.approx(expected, rel=1e-9)


def test_default_lengths_double_up_to_the_whole_embedding():
    assert default_lengths(2048) == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert default_lengths(20) == (8, 16, 20)
    assert default_lengths(8) == (8,)
    assert default_lengths(5) == (5,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": (8, 17)}, "method.lengths: 17 is more than the 16 values"),
        ({"lengths": (8, 8, 16)}, r"method.lengths: \[8, 8, 16\] repeats a length: name each once"),
        ({"importance": (1.0, 2.0, 3.0)}, "method.importance: 3 factors for 2 lengths; give one for each"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(rig, arguments, message):
    made = rig(MRL())
    with pytest.raises(UserError, match=message):
        MRL(**arguments).check(made.student, None, made.plan)


def test_combines_with_a_distillation(rig):
    losses = rig(METHODS.find("kd+mrl")()).step()
    assert {"loss_kd", "loss_mrl_8", "loss_mrl_16"} <= set(losses)


def test_prefixes_are_trained_to_tell_identities_apart(draw):
    """Embeddings that nothing but this loss moves: their first two values suffice in the end."""
    (free,) = draw((12, 8))
    labels = torch.arange(12) % 4
    torch.manual_seed(0)
    method = prepared(8, 4, lengths=(2, 8))
    optimizer = torch.optim.Adam([free.requires_grad_(), *method.parameters()], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        terms = method.loss(SimpleNamespace(embedding=free), None, SimpleNamespace(labels=labels))
        sum(terms.values()).backward()
        optimizer.step()
    prefix = torch.nn.functional.normalize(free.detach()[:, :2])
    nearest = (prefix @ prefix.T - 2 * torch.eye(12)).argmax(dim=1)
    assert torch.equal(labels[nearest], labels)
