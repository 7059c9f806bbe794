"""Every method's loss as a function: its slope, the order of the batch, images that are almost alike.

A method's own tests show that the value of its loss is that of a naive loop written from the equation. Here its
gradient, by all that it reads of the student and by what it has learned itself, is shown to be the central difference
of that value, in float64: it is therefore the loop's numeric gradient too.

A case is a method with its defaults, or with one of its choices (a `Literal` or a `bool`) made otherwise. A method that
is added becomes a case without a change here, unless it belongs in one of the dicts below, which say why.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.method import Method
from benchmark.model.features import Features
from benchmark.registry import METHODS

CONSTANT = {
    "crd": ("log_z", "Z comes from the first batch, and is a constant of the loss already there"),
}
"""Methods that stop a gradient: the buffer that the first call sets from the batch, and why it passes none."""

ORDERED = {
    "cc": "the consecutive form compares each image with the next one",
    "cc-normalize=False": "it is the consecutive form",
    "cc-squared=True": "it is the consecutive form",
    "crd": "negatives are drawn for places in the batch; test_crd permutes them with the images",
    "darkrank-form=original": "the anchors are the first half of the batch",
    "raml-relations=views": "images that follow each other are one image's views",
}
"""Cases whose loss depends on the order of the batch, and why."""

ROWS = 8
GIVEN = ("pooled", "embedding", "logits")
"""What a network says beside its taps."""


def choices(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A method's cases with their arguments."""
    method = METHODS.find(name)
    yield name, {}
    if method.compresses:  # they choose how the network is made smaller, not what the loss is
        return
    hints = get_type_hints(method.__init__)
    for parameter in inspect.signature(method).parameters.values():
        hint = hints[parameter.name]
        values = get_args(hint) if get_origin(hint) is Literal else (False, True) if hint is bool else ()
        yield from (
            (f"{name}-{parameter.name}={value}", {parameter.name: value})
            for value in values
            if value != parameter.default
        )


CASES = {case: (name, arguments) for name in METHODS.names() for case, arguments in choices(name)}


@dataclass
class Step:
    """A call of a method's loss, to be repeated from the same state."""

    case: str
    method: Method
    network: nn.Module
    """The teacher's, of which a method may hold a part."""
    student: dict[str, Tensor]
    """What may be read of the student, by name."""
    teacher: dict[str, Tensor]
    batch: Batch
    state: Mapping[str, Any]
    """The method's, before the call."""

    def loss(self, move: Callable[[], Any] = lambda: None) -> Tensor:
        """The loss where `move` has led from the state."""
        self.method.load_state_dict(self.state)
        with torch.no_grad():
            move()
        return sum(self.method.loss(features(self.student), features(self.teacher), self.batch).values())

    def variables(self) -> dict[str, list[Tensor]]:
        """What the loss is a function of."""
        return {name: [x] for name, x in self.student.items()} | {"adapters": list(self.method.parameters())}

    def gradients(self) -> dict[str, list[Tensor]]:
        """Of the loss by each variable; 0 by one that it does not read."""
        variables = self.variables()
        tensors = [x.requires_grad_() for group in variables.values() for x in group]
        found = iter(torch.autograd.grad(self.loss(), tensors, materialize_grads=True))
        return {name: [next(found) for _ in group] for name, group in variables.items()}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Step":
        """With all that student and teacher say changed."""
        student, teacher = (
            {name: change(x.detach()) for name, x in said.items()} for said in (self.student, self.teacher)
        )
        return replace(self, student=student, teacher=teacher)

    def to(self, dtype: torch.dtype) -> "Step":
        self.method.to(dtype)
        self.network.to(dtype)
        return self.mapped(lambda x: x.to(dtype))


def features(said: Mapping[str, Tensor]) -> Features:
    return Features(
        **{name: said[name] for name in GIVEN}, taps={name: x for name, x in said.items() if name not in GIVEN}
    )


@pytest.fixture(scope="module", params=CASES)
def step(request, rig, plan) -> Step:
    """On the networks of a training. What the student says is random: a network's maps are 0 at many places, where
    losses have kinks."""
    name, arguments = CASES[request.param]
    made = rig(METHODS.find(name)(**arguments), plan=replace(plan, views=2))
    batch = Batch(*(x[:ROWS] for x in made.batches[0]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = [network.eval().features(batch.images) for network in (made.student, made.teacher)]
        student, teacher = ({name: getattr(x, name) for name in GIVEN} | dict(x.taps) for x in found)
        student = {name: torch.randn(x.shape, generator=generator) for name, x in student.items()}
        batch = batch._replace(labels=teacher["logits"].argmax(dim=1))  # ugd compares where the teacher is right
        state = copy.deepcopy(made.method.state_dict())
        if not made.method.loss(features(student), features(teacher), batch):
            pytest.skip("it adds nothing to the task loss")
    return Step(request.param, made.method, made.teacher, student, teacher, batch, state)


def disagreements(step: Step) -> dict[str, list[float]]:
    """Variables by which the gradient is not the central difference: how far apart both are, over what is allowed.

    In one random direction for each, and at several sizes, of which one has to agree: where a step leads across a kink,
    a shorter one does not, while a gradient that is wrong is wrong at every size. Allowed are a millionth of the
    gradient's length and the rounding of the loss.
    """
    rounding = 5 * torch.finfo(torch.float64).eps * abs(step.loss().item())
    generator = torch.Generator().manual_seed(1)
    gradients, found = step.gradients(), {}
    for name, tensors in step.variables().items():
        before = [x.detach().clone() for x in tensors]
        directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients[name], directions, strict=True))
        length = sum(float(g.square().sum()) for g in gradients[name]) ** 0.5

        def go(size: float, tensors=tensors, before=before, directions=directions) -> None:
            for x, old, direction in zip(tensors, before, directions, strict=True):
                x.copy_(old + size * direction)

        errors = []
        for size in (1e-6, 1e-7, 1e-5):
            with torch.no_grad():
                above, below = (float(step.loss(partial(go, by))) for by in (size, -size))
                go(0)
            apart = abs((above - below) / (2 * size) - slope)
            errors.append(apart / (1e-6 * length + rounding / size))
            if errors[-1] < 1:
                break
        else:
            found[name] = errors
    return found


def test_the_gradient_is_the_slope(step):
    step = step.to(torch.float64)
    gradients = step.gradients()
    assert any(gradient.any() for group in gradients.values() for gradient in group)
    if step.case in CONSTANT:
        assert disagreements(step), "it stops no gradient: take it from CONSTANT"
        constant, _ = CONSTANT[step.case]
        step.loss()
        step = replace(step, state=step.state | {constant: step.method.state_dict()[constant].clone()})
        held = step.gradients()
        assert all(torch.equal(a, b) for name in held for a, b in zip(held[name], gradients[name], strict=True))
    wrong = disagreements(step)
    assert not wrong


def test_blind_to_the_order_of_the_batch(step):
    step = step.to(torch.float64)
    order = torch.tensor([4, 2, 7, 0, 5, 1, 3, 6])
    permuted = replace(step.mapped(lambda x: x[order]), batch=Batch(*(x[order] for x in step.batch)))
    with torch.no_grad():
        expected, found = float(step.loss()), float(permuted.loss())
    blind = found == pytest.approx(expected, rel=1e-12)
    assert blind == (step.case not in ORDERED)


@pytest.mark.parametrize("apart", [1e-6, 1e-4])
@pytest.mark.parametrize("copies", [2, ROWS])
def test_images_almost_alike_have_bounded_gradients(step, copies, apart):
    step = step.to(torch.float32)
    generator = torch.Generator().manual_seed(2)

    def alike(x: Tensor) -> Tensor:
        noise = 2 * torch.rand(x.shape, generator=generator) - 1
        return x[::copies].repeat_interleave(copies, dim=0) + apart * noise

    both = step.mapped(alike)
    for seen in (both, replace(both, teacher=step.teacher)):
        assert seen.loss().isfinite()
        for name, gradients in seen.gradients().items():
            assert all(gradient.abs().max() < 1e6 for gradient in gradients), name  # not of NaN either


def test_exceptions_are_cases():
    assert {*CONSTANT, *ORDERED} <= set(CASES)
