"""Every loss as a function: its gradient, its dependence on the order of the batch, images that are almost identical.

The tests of each method compare the value of its loss with a naive loop. Here, the gradient is compared with the
central difference of the value in float64, for everything that the loss reads of the student and for the parameters of
the method.

A case is a method with its default arguments, or with another value of one argument that is a `Literal` or a `bool`. A
new method is covered without a change here, unless it belongs in one of the two tables of exceptions.
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

from benchmark import METHODS, Batch, Features, Method
from benchmark.fitted_method import FittedMethod

CONSTANT = {
    "crd": ("log_z", "Z is estimated from the first batch, and is a constant of the loss"),
}
"""Cases with a value that has no gradient: the buffer that the first call sets from the batch, and the reason."""

ORDERED = {
    "cc": "the consecutive form compares each image with the next one",
    "cc-normalize=False": "it is the consecutive form",
    "cc-squared=True": "it is the consecutive form",
    "crd": "negatives are drawn for positions in the batch; test_crd permutes them with the images",
    "darkrank-form=original": "the anchors are the first half of the batch",
    **dict.fromkeys(
        ("whiten_mtd", "whiten_mtd-strategy=maxmean", "whiten_mtd-strategy=mean", "whiten_mtd-whiten=False"),
        "the images of an identity are divided into pairs",
    ),
    "raml-relations=views": "consecutive images are views of one image",
}
"""Cases whose loss depends on the order of the batch, and the reason."""

IMAGES = 8
OUTPUTS = ("pooled", "embedding", "logits")
"""Outputs of a network other than its taps."""


def variants(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the cases of a method with their arguments."""
    method = METHODS.find(name)
    yield name, {}
    if method.compresses:  # its arguments do not change the loss
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


CASES = {case: (name, arguments) for name in METHODS.names() for case, arguments in variants(name)}


@dataclass
class Call:
    """A call of a method's loss that can be repeated from the same state."""

    case: str
    method: Method
    network: nn.Module
    """The teacher, a part of which a method may use."""
    student: dict[str, Tensor]
    """Outputs of the student by name."""
    teacher: dict[str, Tensor]
    batch: Batch
    state: Mapping[str, Any]
    """State of the method before the call."""

    def loss(self, move: Callable[[], Any] = lambda: None) -> Tensor:
        """Compute the loss after `move` has changed the variables."""
        self.method.load_state_dict(self.state)
        with torch.no_grad():
            move()
        return sum(self.method.loss(features(self.student), features(self.teacher), self.batch).values())

    def variables(self) -> dict[str, list[Tensor]]:
        """Return the tensors that the loss is a function of."""
        return {name: [x] for name, x in self.student.items()} | {"adapters": list(self.method.parameters())}

    def gradients(self) -> dict[str, list[Tensor]]:
        """Return the gradient with respect to each variable; 0 for one that the loss does not read."""
        variables = self.variables()
        tensors = [x.requires_grad_() for group in variables.values() for x in group]
        gradients = iter(torch.autograd.grad(self.loss(), tensors, materialize_grads=True))
        return {name: [next(gradients) for _ in group] for name, group in variables.items()}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """Return the call with changed outputs of student and teacher."""
        student, teacher = (
            {name: change(x.detach()) for name, x in outputs.items()} for outputs in (self.student, self.teacher)
        )
        return replace(self, student=student, teacher=teacher)

    def to(self, dtype: torch.dtype) -> "Call":
        self.method.to(dtype)
        self.network.to(dtype)
        return self.mapped(lambda x: x.to(dtype))


def features(outputs: Mapping[str, Tensor]) -> Features:
    taps = {name: x for name, x in outputs.items() if name not in OUTPUTS}
    return Features(**{name: outputs[name] for name in OUTPUTS}, taps=taps)


@pytest.fixture(scope="module", params=CASES)
def call(request, rig, plan) -> Call:
    """A call with random outputs of the student: feature maps of networks are 0 in places where losses have kinks."""
    name, arguments = CASES[request.param]
    made = rig(METHODS.find(name)(**arguments), plan=replace(plan, views=2))
    batch = Batch(*(x[:IMAGES] for x in made.batches[0]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        both = [network.eval().features(batch.images) for network in (made.student, made.teacher)]
        student, teacher = ({name: getattr(x, name) for name in OUTPUTS} | dict(x.taps) for x in both)
        student = {name: torch.randn(x.shape, generator=generator) for name, x in student.items()}
        batch = batch._replace(labels=teacher["logits"].argmax(dim=1))  # ugd uses correctly classified cells only
        if isinstance(made.method, FittedMethod):
            made.fit()
        state = copy.deepcopy(made.method.state_dict())
        if not made.method.loss(features(student), features(teacher), batch):
            pytest.skip("the method has no loss terms")
    return Call(request.param, made.method, made.teacher, student, teacher, batch, state)


def disagreements(call: Call) -> dict[str, list[float]]:
    """Compare gradients with central differences, in one random direction for each variable.

    A variable agrees if the difference is below a millionth of the gradient's norm plus the rounding of the loss, for
    one of several step sizes. A small step avoids kinks that a larger one crosses, and a wrong gradient is wrong with
    every step size.

    Returns:
        For each variable that does not agree, the ratio of difference and tolerance for each step size.
    """
    rounding = 5 * torch.finfo(torch.float64).eps * abs(call.loss().item())
    generator = torch.Generator().manual_seed(1)
    gradients, wrong = call.gradients(), {}
    for name, tensors in call.variables().items():
        before = [x.detach().clone() for x in tensors]
        directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in tensors]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients[name], directions, strict=True))
        norm = sum(float(g.square().sum()) for g in gradients[name]) ** 0.5

        def move(size: float, tensors=tensors, before=before, directions=directions) -> None:
            for x, old, direction in zip(tensors, before, directions, strict=True):
                x.copy_(old + size * direction)

        ratios = []
        for size in (1e-6, 1e-7, 1e-5):
            with torch.no_grad():
                above, below = (float(call.loss(partial(move, by))) for by in (size, -size))
                move(0)
            difference = abs((above - below) / (2 * size) - slope)
            ratios.append(difference / (1e-6 * norm + rounding / size))
            if ratios[-1] < 1:
                break
        else:
            wrong[name] = ratios
    return wrong


def test_gradient_equals_the_central_difference(call):
    call = call.to(torch.float64)
    gradients = call.gradients()
    assert any(gradient.any() for group in gradients.values() for gradient in group)
    if call.case in CONSTANT:
        assert disagreements(call), "nothing is constant: remove the case from CONSTANT"
        buffer, _ = CONSTANT[call.case]
        call.loss()
        call = replace(call, state=call.state | {buffer: call.method.state_dict()[buffer].clone()})
        fixed = call.gradients()
        assert all(torch.equal(a, b) for name in fixed for a, b in zip(fixed[name], gradients[name], strict=True))
    wrong = disagreements(call)
    assert not wrong


def test_order_of_the_batch(call):
    call = call.to(torch.float64)
    order = torch.tensor([4, 2, 7, 0, 5, 1, 3, 6])
    permuted = replace(call.mapped(lambda x: x[order]), batch=Batch(*(x[order] for x in call.batch)))
    with torch.no_grad():
        expected, loss = float(call.loss()), float(permuted.loss())
    assert (loss == pytest.approx(expected, rel=1e-12)) == (call.case not in ORDERED)


@pytest.mark.parametrize("distance", [1e-6, 1e-4])
@pytest.mark.parametrize("copies", [2, IMAGES])
def test_almost_identical_images_have_bounded_gradients(call, copies, distance):
    call = call.to(torch.float32)
    generator = torch.Generator().manual_seed(2)

    def repeat(x: Tensor) -> Tensor:
        noise = 2 * torch.rand(x.shape, generator=generator) - 1
        return x[::copies].repeat_interleave(copies, dim=0) + distance * noise

    both = call.mapped(repeat)
    for changed in (both, replace(both, teacher=call.teacher)):
        assert changed.loss().isfinite()
        for name, gradients in changed.gradients().items():
            assert all(gradient.abs().max() < 1e6 for gradient in gradients), name  # also false for NaN


def test_exceptions_are_cases():
    assert {*CONSTANT, *ORDERED} <= set(CASES)
