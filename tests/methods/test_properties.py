"""Properties that many losses share: invariances, zero loss at the teacher, bounded gradients, half precision, a step.

Each table maps methods, with arguments where they matter ("rkd normalize=true"), to a property of their loss. What is
particular to a method, such as its naive oracle, is in the method's own file. Two suites cover every registered method:
`test_gradients.py` (gradients, order of the batch) and `test_conformance.py` (training).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from benchmark import METHODS, Method

Outputs = tuple[Tensor, Tensor]
"""Of student and teacher."""

CHANGES: dict[str, Callable[[Tensor, Tensor], Outputs]] = {
    "swap": lambda s, t: (t, s),
    "permute student": lambda s, t: (s.flip(0), t),
    "rotate student": lambda s, t: (rotate(s), t),
    "rotate both": lambda s, t: (rotate(s), rotate(t)),
    "scale student": lambda s, t: (3 * s, t),
    "scale teacher": lambda s, t: (s, 7 * t),
    "scale both": lambda s, t: (2 * s, 2 * t),
    "scale student rows": lambda s, t: (scale_rows(s), t),
    "scale teacher rows": lambda s, t: (s, scale_rows(t)),
    "shift student": lambda s, t: (s + 3, t),
    "shift teacher": lambda s, t: (s, t + 3),
    "shift student rows": lambda s, t: (s + random(len(s), 1, seed=4), t),
    "permute classes": lambda s, t: (s.flip(1), t.flip(1)),
    "permute channels": lambda s, t: (s.flip(1), t),
    "repeat channels": lambda s, t: (s.repeat(1, 3, 1, 1), t),
    "scale channels": lambda s, t: (scale_channels(s), t),
    "negate student": lambda s, t: (-s, t),
    "transpose maps": lambda s, t: (s.mT, t.mT),
    "permute positions": lambda s, t: (s.flip(2, 3), t.flip(2, 3)),
    "permute student positions": lambda s, t: (s.flip(2, 3), t),
}

COSINES = "rotate both, scale student, scale teacher"
ATTENTION = "negate student, permute channels, repeat channels, permute positions, transpose maps"
INVARIANT = {
    "affinity_mimicking": "rotate student, scale student rows, scale teacher rows",
    "aml": f"{COSINES}, scale student rows, scale teacher rows",
    "at form=code": f"{ATTENTION}, scale student rows, scale teacher rows",
    "at form=paper": f"{ATTENTION}, scale student rows, scale teacher rows",
    "cc": "scale student",
    "cc form=gaussian": "scale student, rotate student",
    "cc form=bilinear": "scale student, rotate student",
    "csd top_k=4": COSINES,
    "d3still top_k=4": COSINES,
    "darkrank": "scale student",
    "darkrank form=original": "scale student",
    "darkrank normalize=false": "rotate student, shift student, scale teacher, shift teacher",  # the teacher only ranks
    "darkrank form=original normalize=false": "rotate student, shift student, scale teacher, shift teacher",
    "dist": "permute classes",
    "dkd": "shift student rows, shift teacher",
    "fitnet": "rotate both",
    "js": "swap, shift student rows, shift teacher",
    "kd": "shift student rows, shift teacher",
    "metrics_from_teachers mode=relative": "scale student, scale teacher",
    "metrics_from_teachers mode=absolute": "scale student, scale teacher",
    "metrics_from_teachers mode=relative normalize=false": "rotate student, shift student",
    "mkd": f"{ATTENTION}, scale student rows, scale teacher rows",
    "mkd distance=l2": ATTENTION,
    "nst": "swap, permute channels, repeat channels, scale channels, permute positions",
    "pkt": "rotate student, scale student rows, scale teacher rows",
    "raml": COSINES,
    "relaxed_contrastive": "rotate student, shift student, scale student, scale teacher rows",
    "rkd": "rotate student, scale student, scale teacher, shift student",
    "rkd normalize=true": "rotate student, scale student, scale teacher",
    "rop top_k=4": COSINES,
    "sp of=embedding": "rotate student, scale student, scale teacher",
}
"""Changes that leave the loss as it is."""
TOLERANCE = {"pkt": 1e-4, "relaxed_contrastive": 1e-6}
"""Relative tolerance of invariances that constants in the loss break; 1e-9 for the others."""

ATTENDS = {"permute student positions": 1e-3, "permute student": 1e-3, "swap": 1e-3}
SENSITIVE = {
    "aml": {"rotate student": 1e-2},
    "affinity_mimicking student_scale=5 teacher_scale=5": {"shift student": 0.1, "permute student": 1e-2},
    "at form=code": {"shift student": 1e-2, "permute student positions": 1e-2},
    "at form=paper": {"shift student": 1e-2, "permute student positions": 1e-2},
    "cc": {"rotate student": 1e-9},
    "cc normalize=false": {"scale student": 0.1},
    "cc form=gaussian normalize=false": {"scale student": 0.1},
    "cc form=bilinear normalize=false": {"scale student": 0.1},
    "csd top_k=4": {"rotate student": 1e-3},
    "d3still top_k=4": {"rotate student": 1e-3},
    "darkrank normalize=false": {"scale student": 0.1},
    "darkrank form=original normalize=false": {"scale student": 0.1},
    "dist": {"permute student": 1e-5},
    "fitnet": {"rotate student": 1e-2, "scale both": 1e-2},
    "kd": {"swap": 1e-3},
    "metrics_from_teachers mode=relative normalize=false": {"scale student": 0.1},
    "metrics_from_teachers mode=absolute normalize=false": {
        "rotate student": 1e-9,
        "shift student": 1e-9,
        "scale student": 0.1,
    },
    "mkd": ATTENDS,
    "mkd distance=l2": ATTENDS | {"scale student": 1e-3},
    "nst": {"permute student positions": 1e-2, "shift student": 1e-2},
    "pkt": {"shift student": 0.1, "permute student": 0.1},
    "raml": {"rotate student": 1e-3},
    "relaxed_contrastive": {"permute student": 1e-3, "shift teacher": 0.1},
    "rkd normalize=true": {"shift student": 1e-5},
    "rop top_k=4": {"rotate student": 1e-3},
    "sp of=embedding": {"shift student": 0.01, "permute student": 0.01, "scale student rows": 0.01},
}
"""Changes on which the loss depends, and a lower bound of the relative difference that each makes."""

COSTS_NOTHING: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "at": (lambda t: scale_rows(t), 1e-10, inf),
    "at form=paper": (lambda t: scale_rows(t), 1e-10, inf),
    "cc": (lambda t: t, 0, 0),
    "cc form=gaussian": (lambda t: t, 0, 0),
    "cc form=gaussian squared=true": (lambda t: t, 0, 0),
    "cc form=bilinear": (lambda t: t, 0, 0),
    "cc form=bilinear squared=true": (lambda t: t, 0, 0),
    "csd student_temperature=0.1 teacher_temperature=0.1": (lambda t: 3 * t, 1e-12, 1e-12),
    "d3still": (lambda t: 3 * t, 1e-12, inf),
    "dist": (lambda t: t, 1e-5, 1e-5),
    "dkd": (lambda t: t + 1, 1e-12, 1e-12),
    "fitnet": (lambda t: t, 0, 0),
    "js": (lambda t: t - 2, 1e-12, 1e-12),
    "kd": (lambda t: t - 2, 1e-12, 1e-12),
    "metrics_from_teachers": (lambda t: t, 0, 0),
    "mkd": (lambda t: t, 0, 0),
    "mkd distance=l2": (lambda t: t, 0, 0),
    "nst weight=1": (lambda t: scale_channels(t.flip(1)), 1e-12, inf),
    "pkt weight=1": (lambda t: t, 0, 1e-7),  # the constants leave a gradient
    "raml": (lambda t: 3 * t, 1e-11, 1e-5),
    "raml relations=views": (lambda t: 3 * t, 1e-11, 1e-5),
    "rkd": (lambda t: 2 * t, 1e-20, 1e-12),
    "sp weight=1": (lambda t: t.flip(1, 2, 3), 1e-20, 1e-12),
}
"""A student's output that equals the teacher's up to invariances; upper bounds of the absolute loss and gradient."""

DEGENERATE: dict[str, Callable[[Tensor, Tensor], Outputs]] = {
    "zero student": lambda s, t: (0 * s, t),
    "zero teacher": lambda s, t: (s, 0 * t),
    "zero networks": lambda s, t: (0 * s, 0 * t),
    "one zero row": lambda s, t: (s.index_fill(0, torch.tensor([2]), 0), t),
    "constant student": lambda s, t: (torch.ones_like(s), t),
    "constant networks": lambda s, t: (torch.ones_like(s), torch.ones_like(t)),
    "tiny constant student": lambda s, t: (torch.full_like(s, 1e-7), t),
    "nearly constant networks": lambda s, t: (1 + 1e-6 * s, 1 + 1e-6 * t),
    "nearly zero networks": lambda s, t: (1e-6 * s, 1e-6 * t),
    "equal networks": lambda s, t: (t.clone(), t),
    "nearly equal networks": lambda s, t: (t + 1e-6, t),
    "one map for all images": lambda s, t: (s[:1].repeat(len(s), 1, 1, 1), t),
    "one map for all channels": lambda s, t: (s[:, :1].repeat(1, s.shape[1], 1, 1), t),
}
"""Outputs at which a norm, a distance or a variance is zero or nearly so."""


def coincident(bound: float) -> dict[str, float]:
    return dict.fromkeys(["zero student", "zero networks", "constant student", "constant networks"], bound)


def degenerate_maps(bound: float) -> dict[str, float]:
    return dict.fromkeys(["zero student", "zero teacher", "equal networks", "nearly equal networks"], bound)


NEARLY = coincident(100) | {"zero networks": inf, "nearly constant networks": 100, "nearly zero networks": inf}
BOUNDS = {
    "aml": NEARLY,
    "affinity_mimicking student_scale=5": coincident(10),
    "at weight=1": degenerate_maps(10),
    "at weight=1 form=paper": degenerate_maps(10),
    "cc": coincident(10),
    "cc form=gaussian": coincident(10),
    "cc form=bilinear": coincident(10),
    "csd": NEARLY,
    "d3still": NEARLY,
    "darkrank": coincident(0),
    "darkrank normalize=false": coincident(0),
    "darkrank form=original": coincident(0),
    "darkrank form=original normalize=false": coincident(0),
    "metrics_from_teachers mode=relative": coincident(1),
    "metrics_from_teachers mode=relative normalize=false": coincident(1),
    "metrics_from_teachers mode=absolute": coincident(1),
    "metrics_from_teachers mode=absolute normalize=false": coincident(1),
    "mkd": degenerate_maps(100) | {"one map for all images": 100},
    "mkd distance=l2": degenerate_maps(100) | {"one map for all images": 100},
    "nst weight=1": degenerate_maps(1e-5) | {"zero student": 1, "zero teacher": 1, "one map for all channels": 1},
    "pkt weight=1": coincident(1),
    "raml": NEARLY,
    "relaxed_contrastive": coincident(0),
    "rkd": coincident(100),
    "rkd normalize=true": coincident(100) | {"one zero row": 1e6},
    "rop": NEARLY,
    "sp weight=1 of=embedding": coincident(1) | {"tiny constant student": 1e7},
}
"""Upper bounds of the gradient. A division by a norm of zero would give about 1e12."""

HALF = dict.fromkeys(
    [
        *("at power=4", "at power=4 form=paper", "cc", "cc normalize=false", "cc form=gaussian", "cc form=bilinear"),
        *(
            "csd",
            "d3still",
            "darkrank",
            "dkd",
            "fitnet",
            "js",
            "kd",
            "mkd",
            "nst",
            "pkt",
            "raml",
            "relaxed_contrastive",
            "rkd",
            "rop",
        ),
        *("sp", "sp of=embedding"),
        *("metrics_from_teachers mode=relative normalize=false", "metrics_from_teachers mode=absolute normalize=false"),
    ],
    300,
) | {"dist": 3, "mkd distance=l2": 3}  # the gradient of the latter grows with the fourth power
"""Scale of outputs in half precision."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotate(x: Tensor) -> Tensor:
    return x @ torch.linalg.qr(random(x.shape[1], x.shape[1], seed=1)).Q


def scale_rows(x: Tensor) -> Tensor:
    return x * random(len(x), *[1] * (x.dim() - 1), seed=2).exp()


def scale_channels(x: Tensor) -> Tensor:
    """Scale every channel of every image, by factors of both signs."""
    return x * random(*x.shape[:2], 1, 1, seed=3)


@dataclass
class Case:
    """A method as prepared for six images, and random outputs that fit it."""

    method: Method
    name: str
    """Name of the output that the method reads."""
    outputs: Outputs

    @classmethod
    def of(cls, spec: str, size: tuple[int, int] = (3, 4)) -> "Case":
        """Build the method of a specification such as "rkd normalize=true"; maps get this height and width."""
        name, *options = spec.split()
        arguments = {key: yaml.safe_load(value) for key, value in (option.split("=") for option in options)}
        if METHODS.find(name).kind == "feature maps":
            arguments.setdefault("stages", (3,))
        method: Any = METHODS.find(name)(**arguments)
        if name == "fitnet":
            method.regressors.append(nn.Identity())
        if method.needs.views:
            method.views = 2
        if method.student_taps:
            return cls(method, method.student_taps[0], (random(6, 5, *size, seed=0), random(6, 8, *size, seed=10)))
        if method.kind == "logits":
            return cls(method, "logits", (random(6, 10, seed=0), random(6, 10, seed=10)))
        return cls(method, "embedding", (random(6, 8, seed=0), random(6, 8 if method.aligned else 10, seed=10)))


def parametrize(table: dict[str, Any], listed: bool = True) -> pytest.MarkDecorator:
    """Parametrize over the specifications of a table, and over the names that each lists."""
    rows = []
    for spec, names in table.items():
        names = names.split(", ") if isinstance(names, str) else names
        sizes: Iterable[Any] = [(3, 4), (2, 2)] if Case.of(spec).outputs[0].dim() == 4 else [()]
        for size in sizes:
            label = f"{spec} {size}" if size else spec
            rows += [pytest.param((spec, size, name), id=f"{label}: {name}") for name in (names if listed else [""])]
    return pytest.mark.parametrize("row", rows)


@pytest.fixture
def case(row):
    spec, size, _ = row
    return Case.of(spec, size) if size else Case.of(spec)


@pytest.fixture
def loss(case, total):
    """`loss(student, teacher)`: the loss of the case's method for these outputs."""
    return lambda *outputs: total(case.method, labels=torch.arange(6), **{case.name: outputs})


@parametrize(INVARIANT)
def test_invariant(row, case, loss):
    spec, _, change = row
    computed, expected = loss(*CHANGES[change](*case.outputs)), loss(*case.outputs)
    torch.testing.assert_close(computed, expected, rtol=TOLERANCE.get(spec, 1e-9), atol=1e-12)


@parametrize(SENSITIVE)
def test_sensitive(row, case, loss):
    spec, _, change = row
    before, after = loss(*case.outputs).item(), loss(*CHANGES[change](*case.outputs)).item()
    assert abs(after - before) > SENSITIVE[spec][change] * abs(before)


@parametrize(COSTS_NOTHING, listed=False)
def test_student_equal_to_teacher_costs_nothing(row, case, loss):
    student_from, largest_loss, largest_gradient = COSTS_NOTHING[row[0]]
    teacher = case.outputs[1]
    student = student_from(teacher).requires_grad_()
    computed = loss(student, teacher)
    computed.backward()
    assert abs(computed.item()) <= largest_loss
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() <= largest_gradient


@parametrize(BOUNDS)
def test_degenerate_outputs_have_bounded_gradients(row, case, loss):
    spec, _, name = row
    student, teacher = (x.float() for x in DEGENERATE[name](*case.outputs))
    computed = loss(student.requires_grad_(), teacher)
    computed.backward()
    assert computed.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() <= BOUNDS[spec][name]
    assert student.grad.any() or name != "one zero row"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@parametrize(HALF, listed=False)
def test_half_precision_equals_float32(row, case, loss, dtype):
    """Under autocast too, the loss of half-precision outputs is computed in float32."""
    student, teacher = ((HALF[row[0]] * x).to(dtype) for x in case.outputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = loss(student.requires_grad_(), teacher)
    computed.backward()
    assert student.grad.isfinite().all()
    exact = loss(student.detach().float(), teacher.float())
    torch.testing.assert_close(computed, exact, rtol=1e-4 if row[0] == "pkt" else 1e-5, atol=1e-8)


@pytest.mark.parametrize("spec", ["at weight=1", "at weight=1 form=paper", "mkd", "nst weight=2"])
def test_stages_add_up_and_larger_maps_are_pooled(total, spec):
    single, double = Case.of(spec).method, Case.of(f"{spec} stages=[1,3]").method
    student, teacher, large = random(4, 3, 4, 2, seed=0), random(4, 5, 4, 2, seed=1), random(4, 5, 8, 6, seed=2)
    pooled = large.view(4, 5, 4, 2, 2, 3).mean(dim=(3, 5))
    parts = total(single, stage3=(student, teacher)) + total(single, stage3=(pooled, student))
    both = total(double, stage1=(student, teacher), stage3=(large, student))
    torch.testing.assert_close(both, parts, rtol=1e-9, atol=0)


ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "clip_kd": [{"cross_weight": 1.0, "gradient_weight": 1e8, "fusion_weight": 1.0}],
    "crd": [{"weight": 0.5, "dim": 12, "negatives": 64, "temperature": 0.1, "momentum": 0.25}],
    "dist": [{"temperature": 4.0, "inter_weight": 0.0, "intra_weight": 2.0}],
    "fitnet": [{"on": "stages"}],
    "js": [{"temperature": 4.0, "weight": 2.0}],
    "mrl": [{"lengths": (4, 16), "importance": (1.0, 2.0), "shared": True, "label_smoothing": 0.0}],
    "mkd": [{"distance": "l2", "stages": (4,)}],
    "phi_s": [{"fit_images": 32}],
    "relaxed_contrastive": [{"weight": 0.5, "sigma": 0.5, "delta": 0.9}],
    "reviewkd": [{"stages": (2, 4), "middle": 8}],
    "sp": [{"weight": 10.0, "stages": (1, 3)}, {"weight": 10.0, "of": "embedding"}],
    "ssp": [{"blocks": 4, "centroids": 8, "fit_images": 32}],
    "vid": [{"stages": (2, 3)}],
    "whiten_mtd": [{"fit_images": 32, "dim": 4}],
}
"""Arguments with which a step is trained, in addition to the presets of all methods."""


STEPS = [
    (name, arguments)
    for name in METHODS.names()
    for arguments in [*METHODS.find(name).presets.values(), *ARGUMENTS.get(name, [])]
    if not (METHODS.find(name).compresses or arguments.get("relations") == "views")
]


@pytest.mark.parametrize(("name", "arguments"), STEPS, ids=str)
def test_step(rig, name, arguments):
    """Terms are finite, one of them is positive, and every parameter of the method's own is trained."""
    method = METHODS.find(name)(**arguments)
    running = rig(method)
    before = [parameter.clone() for parameter in method.parameters()]
    terms = {key: value for key, value in running.step().items() if key.startswith(f"loss_{name}")}
    assert all(value.isfinite() for value in terms.values())
    assert any(value > 0 for value in terms.values())
    assert not any(torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
