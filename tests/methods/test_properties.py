"""Properties that many losses share: invariances, zero loss at the teacher, bounded gradients, half precision, a step.

`ROWS` is the table: a row is a method, with an option where that matters, and the properties of its loss. What is
particular to a method, such as its naive oracle, is in the method's own file. Two suites cover every registered method:
`test_gradients.py` (gradients, order of the batch) and `test_conformance.py` (training).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark import METHODS, Method
from benchmark.methods.at import AT
from benchmark.methods.cc import CC
from benchmark.methods.crd import CRD
from benchmark.methods.csd import CSD
from benchmark.methods.d3still import D3still
from benchmark.methods.darkrank import DarkRank
from benchmark.methods.dist import DIST
from benchmark.methods.dkd import DKD
from benchmark.methods.fitnet import FitNet
from benchmark.methods.js import JS
from benchmark.methods.kd import KD
from benchmark.methods.metrics_from_teachers import MetricsFromTeachers
from benchmark.methods.mkd import MKD
from benchmark.methods.nst import NST
from benchmark.methods.pkt import PKT
from benchmark.methods.raml import RAML
from benchmark.methods.relaxed_contrastive import RelaxedContrastive
from benchmark.methods.reviewkd import ReviewKD
from benchmark.methods.rkd import RKD
from benchmark.methods.rop import ROP
from benchmark.methods.sp import SP
from benchmark.methods.vid import VID

Pair = tuple[Tensor, Tensor]
"""The outputs of student and teacher."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotate(x: Tensor) -> Tensor:
    return x @ torch.linalg.qr(random(x.shape[1], x.shape[1], seed=1)).Q


def scale_rows(x: Tensor) -> Tensor:
    return x * random(len(x), *[1] * (x.dim() - 1), seed=2).exp()


def scale_channels(x: Tensor) -> Tensor:
    """Scale every channel of every image, by factors of both signs."""
    return x * random(*x.shape[:2], 1, 1, seed=3)


CHANGES: dict[str, Callable[[Tensor, Tensor], Pair]] = {
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
    "permute columns": lambda s, t: (s.flip(1), t.flip(1)),
    "permute student channels": lambda s, t: (s.flip(1), t),
    "repeat student channels": lambda s, t: (s.repeat(1, 3, 1, 1), t),
    "repeat teacher channels": lambda s, t: (s, t.repeat(1, 2, 1, 1)),
    "scale student channels": lambda s, t: (scale_channels(s), t),
    "negate student": lambda s, t: (-s, t),
    "transpose maps": lambda s, t: (s.mT, t.mT),
    "permute positions": lambda s, t: (s.flip(2, 3), t.flip(2, 3)),
    "permute student positions": lambda s, t: (s.flip(2, 3), t),
}
"""Changes of the outputs under which a loss may or may not change."""

DEGENERATE: dict[str, Callable[[Tensor, Tensor], Pair]] = {
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
ROWS_THAT_COINCIDE = ["zero student", "zero networks", "constant student", "constant networks"]
MAPS_THAT_COINCIDE = ["zero student", "zero teacher", "equal networks", "nearly equal networks"]


@dataclass
class Equal:
    """What a student costs that equals its teacher up to what the loss does not depend on."""

    student: Callable[[Tensor], Tensor] = lambda teacher: teacher
    """The student's output, given the teacher's."""
    loss: float = 0
    gradient: float = 0
    """Upper bounds of the absolute value."""


@dataclass
class Row:
    """Properties of a loss."""

    method: Method
    output: str
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    """Shapes of the outputs."""
    invariant: Sequence[str] = ()
    """Names in `CHANGES`."""
    sensitive: Mapping[str, float] = field(default_factory=dict)
    """Names in `CHANGES` -> the least relative change of the loss."""
    rtol: float = 1e-9
    """Relative tolerance of the invariances."""
    equal: Equal | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Names in `DEGENERATE` -> upper bound of the gradient. Division by a norm of zero would give about 1e12."""
    short_scale: float = 300
    """Standard deviation of half-precision outputs."""
    short_rtol: float = 1e-5

    def draw(self) -> Pair:
        return random(*self.student, seed=0), random(*self.teacher, seed=10)


def fitnet(**arguments: Any) -> FitNet:
    """Return FitNet as prepared for embeddings of equal size."""
    method = FitNet(**arguments)
    method.regressors.append(nn.Identity())
    return method


def raml_by_views(views: int) -> RAML:
    method = RAML(relations="views")
    method.views = views
    return method


def embeddings(method: Method, dim: int = 8, **properties: Any) -> Row:
    return Row(method, "embedding", (6, 8), (6, dim), **properties)


def logits(method: Method, **properties: Any) -> Row:
    return Row(method, "logits", (6, 10), (6, 10), **properties)


def maps(method: Method, size: tuple[int, int] = (3, 4), **properties: Any) -> Row:
    return Row(method, "stage3", (6, 5, *size), (6, 8, *size), **properties)


def in_common_space(method: Method, equal: Equal | None = None) -> Row:
    """A loss between the directions of the embeddings of both networks."""
    bounds = dict.fromkeys([*ROWS_THAT_COINCIDE, "nearly constant networks"], 100) | {"nearly zero networks": math.inf}
    return embeddings(
        method,
        invariant=["rotate both", "scale student", "scale teacher"],
        sensitive={"rotate student": 1e-3},
        equal=equal,
        bounds=bounds,
    )


AS_MAPS = ["negate student", "permute student channels", "repeat teacher channels", "permute positions"]
KERNELS = ("gaussian", "bilinear")

ROWS = {
    **{
        f"at-{form}-{size}": maps(
            AT(1.0, (3,), form=form),
            size,
            invariant=[*AS_MAPS, "scale student rows", "transpose maps"],
            sensitive={} if size == (1, 1) else {"shift student": 1e-2, "permute student positions": 1e-2},
            bounds=dict.fromkeys(MAPS_THAT_COINCIDE, 10),
        )
        for form in ("code", "paper")
        for size in ((3, 4), (2, 1), (1, 1))
    },
    **{
        f"at-{form}-p4": maps(AT(1.0, (3,), 4, form), equal=Equal(scale_rows, 1e-10, math.inf))
        for form in ("code", "paper")
    },
    **{
        f"cc-consecutive-squared={squared}": embeddings(
            CC(squared=squared),
            invariant=["scale student"],
            sensitive={"rotate student": 1e-9},
            equal=Equal(),
            bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 10),
        )
        for squared in (False, True)
    },
    **{
        f"cc-{form}-squared={squared}": embeddings(
            CC(form, squared=squared),
            invariant=["scale student", "rotate student"],
            equal=Equal(),
            bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 10),
        )
        for form in KERNELS
        for squared in (False, True)
    },
    **{
        f"cc-{form}-normalize=False": embeddings(
            CC(form, normalize=False), sensitive={"scale student": 0.1}, short_scale=1
        )
        for form in ("consecutive", *KERNELS)
    },
    "csd": in_common_space(CSD()),
    "csd-4 neighbors": in_common_space(CSD(4, 0.1, 0.1), Equal(lambda t: 3 * t, 1e-12, 1e-12)),
    "d3still": in_common_space(D3still(), Equal(lambda t: 3 * t, 1e-12, math.inf)),
    "d3still-4 neighbors": in_common_space(D3still(4)),
    "raml": in_common_space(RAML(), Equal(lambda t: 3 * t, 1e-11, 1e-5)),
    "raml-views": in_common_space(raml_by_views(2), Equal(lambda t: 3 * t, 1e-11, 1e-5)),
    "rop": in_common_space(ROP()),
    "rop-4 neighbors": in_common_space(ROP(4)),
    **{
        f"darkrank-{form}": embeddings(
            DarkRank(form=form), invariant=["scale student"], bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 0)
        )
        for form in ("hard", "original")
    },
    **{
        f"darkrank-{form}-normalize=False": embeddings(
            DarkRank(form=form, normalize=False),
            invariant=["rotate student", "shift student", "scale teacher", "shift teacher"],  # the teacher only ranks
            sensitive={"scale student": 0.1},
            bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 0),
            short_scale=3,  # the loss grows with its cube
        )
        for form in ("hard", "original")
    },
    "dist": logits(
        DIST(),
        invariant=["permute columns"],
        sensitive={"permute student": 1e-5},
        equal=Equal(loss=1e-5, gradient=1e-5),
        short_scale=3,
    ),
    "dkd": logits(DKD(), invariant=["shift student rows"], equal=Equal(lambda t: t + 1, 1e-12, 1e-12)),
    "fitnet": embeddings(
        fitnet(),
        invariant=["rotate both"],
        sensitive={"rotate student": 1e-2, "scale both": 1e-2},
        equal=Equal(),
    ),
    "js": logits(
        JS(),
        invariant=["swap", "shift student rows", "shift teacher"],
        equal=Equal(lambda t: t + 2, 1e-12, 1e-12),
    ),
    "kd": logits(
        KD(),
        invariant=["shift student rows", "shift teacher"],
        sensitive={"swap": 1e-3},
        equal=Equal(lambda t: t + 2, 1e-12, 1e-12),
    ),
    **{
        f"metrics_from_teachers-{mode}": embeddings(
            MetricsFromTeachers(mode),
            invariant=["scale student", "scale teacher"],
            bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 1),
        )
        for mode in ("relative", "absolute")
    },
    "metrics_from_teachers-relative-normalize=False": embeddings(
        MetricsFromTeachers("relative", normalize=False),
        invariant=["rotate student", "shift student"],
        sensitive={"scale student": 0.1},
        equal=Equal(),
        bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 1),
    ),
    "metrics_from_teachers-absolute-normalize=False": embeddings(
        MetricsFromTeachers("absolute", normalize=False),
        sensitive={"rotate student": 1e-9, "shift student": 1e-9, "scale student": 0.1},
        bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 1),
    ),
    "mkd-cosine": maps(
        MKD(stages=(3,)),
        invariant=[*AS_MAPS, "scale student rows", "scale teacher rows"],
        sensitive=dict.fromkeys(["permute student positions", "permute student", "swap"], 1e-3),
        equal=Equal(),
        bounds=dict.fromkeys([*MAPS_THAT_COINCIDE, "one map for all images"], 100),
    ),
    "mkd-l2": maps(
        MKD(stages=(3,), distance="l2"),
        invariant=AS_MAPS,
        sensitive=dict.fromkeys(["permute student positions", "permute student", "swap"], 1e-3),
        equal=Equal(),
        bounds=dict.fromkeys([*MAPS_THAT_COINCIDE, "one map for all images"], 100),
        short_scale=3,  # of which the gradient would be the fourth power
    ),
    **{
        f"nst-between {products}": maps(
            NST(1.0, (3,)),
            size,
            invariant=[
                "permute student channels",
                "scale student channels",
                "repeat student channels",
                "permute positions",
                "swap",
            ],
            sensitive={"permute student positions": 1e-2, "shift student": 1e-2},
            equal=Equal(lambda t: scale_channels(t.flip(1)), 1e-12, math.inf),
            bounds=dict.fromkeys(["zero student", "zero teacher", "one map for all channels"], 1)
            | dict.fromkeys(["equal networks", "nearly equal networks"], 1e-5),
        )
        for products, size in (("positions", (2, 2)), ("channels", (5, 6)))
    },
    "pkt": embeddings(
        PKT(1.0),
        10,
        invariant=["rotate student", "scale student rows", "scale teacher rows"],
        sensitive={"shift student": 0.1, "permute student": 0.1},
        rtol=1e-4,  # up to the constants
        equal=Equal(gradient=1e-7),  # of the constants
        bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 1),
        short_rtol=1e-4,
    ),
    "relaxed_contrastive": embeddings(
        RelaxedContrastive(),
        10,
        invariant=["rotate student", "shift student", "scale student", "scale teacher rows"],
        sensitive={"permute student": 1e-3, "shift teacher": 0.1},
        rtol=1e-6,
        bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 0),
    ),
    "rkd": embeddings(
        RKD(),
        10,
        invariant=["rotate student", "scale student", "scale teacher", "shift student"],
        equal=Equal(lambda t: 2 * t, 1e-20, 1e-12),
        bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 100),
    ),
    "rkd-normalize=True": embeddings(
        RKD(normalize=True),
        10,
        invariant=["rotate student", "scale student", "scale teacher"],
        sensitive={"shift student": 1e-5},
        bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 100) | {"one zero row": 1e6},
    ),
    "sp-embedding": embeddings(
        SP(1.0, of="embedding"),
        10,
        invariant=["rotate student", "scale student", "scale teacher"],
        sensitive=dict.fromkeys(["shift student", "permute student", "scale student rows"], 0.01),
        bounds=dict.fromkeys(ROWS_THAT_COINCIDE, 1) | {"tiny constant student": 1e7},
    ),
    "sp-maps": maps(SP(1.0, stages=(3,)), equal=Equal(lambda t: t.flip(1, 2, 3), 1e-20, 1e-12)),
}


@pytest.fixture
def loss(total):
    """`loss(row, student, teacher)`: the row's loss for these outputs."""
    labels = torch.arange(6)  # for methods that read them
    return lambda row, student, teacher: total(row.method, labels=labels, **{row.output: (student, teacher)})


def select(listed: str) -> pytest.MarkDecorator:
    """Parametrize over the rows, and over the names that a row lists as `invariant`, `sensitive` or `bounds`."""
    pairs = [(key, row, name) for key, row in ROWS.items() for name in getattr(row, listed)]
    return pytest.mark.parametrize(
        ("row", "name"), [pytest.param(row, name, id=f"{key}-{name}") for key, row, name in pairs]
    )


@select("invariant")
def test_invariant(loss, row, name):
    outputs = row.draw()
    torch.testing.assert_close(loss(row, *CHANGES[name](*outputs)), loss(row, *outputs), rtol=row.rtol, atol=1e-12)


@select("sensitive")
def test_sensitive(loss, row, name):
    outputs = row.draw()
    before, after = loss(row, *outputs).item(), loss(row, *CHANGES[name](*outputs)).item()
    assert abs(after - before) > row.sensitive[name] * abs(before)


@pytest.mark.parametrize("row", [pytest.param(row, id=key) for key, row in ROWS.items() if row.equal])
def test_student_equal_to_teacher_costs_nothing(loss, row):
    _, teacher = row.draw()
    student = row.equal.student(teacher).requires_grad_()
    value = loss(row, student, teacher)
    value.backward()
    assert abs(value.item()) <= row.equal.loss
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() <= row.equal.gradient


@select("bounds")
def test_degenerate_outputs_have_bounded_gradients(loss, row, name):
    student, teacher = (x.float() for x in DEGENERATE[name](*row.draw()))
    value = loss(row, student.requires_grad_(), teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() <= row.bounds[name]
    if name == "one zero row":
        assert student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("row", [pytest.param(row, id=key) for key, row in ROWS.items()])
def test_half_precision_equals_float32(loss, row, dtype):
    """Under autocast too, the loss of half-precision outputs is computed in float32."""
    student, teacher = ((row.short_scale * x).to(dtype) for x in row.draw())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(row, student.requires_grad_(), teacher)
    value.backward()
    assert student.grad.isfinite().all()
    exact = loss(row, student.detach().float(), teacher.float())
    torch.testing.assert_close(value, exact, rtol=row.short_rtol, atol=1e-8)


@pytest.mark.parametrize(
    "method", [AT(1.0, (1, 3)), AT(1.0, (1, 3), form="paper"), MKD(stages=(1, 3)), NST(2.0, (1, 3))]
)
def test_stages_add_up_and_larger_maps_are_pooled(total, method):
    student, teacher, large = random(4, 3, 4, 2, seed=0), random(4, 5, 4, 2, seed=1), random(4, 5, 8, 6, seed=2)
    pooled = large.view(4, 5, 4, 2, 2, 3).mean(dim=(3, 5))
    both = total(method, stage1=(student, teacher), stage3=(large, student))
    method.student_taps = ["stage3"]
    parts = total(method, stage3=(student, teacher)) + total(method, stage3=(pooled, student))
    torch.testing.assert_close(both, parts, rtol=1e-9, atol=0)


PRESETS = [
    pytest.param(METHODS.find(name)(**arguments), id=f"{name}-{preset}")
    for name in METHODS.names()
    for preset, arguments in METHODS.find(name).presets.items()
    if not (METHODS.find(name).compresses or METHODS.find(name)(**arguments).needs.views)
]
ARGUMENTS = [
    CRD(weight=0.5, dim=12, negatives=64, temperature=0.1, momentum=0.25),
    DIST(temperature=4.0, inter_weight=0.0, intra_weight=2.0),
    FitNet("stages"),
    JS(temperature=4.0, weight=2.0),
    MKD(distance="l2", stages=(4,)),
    RelaxedContrastive(weight=0.5, sigma=0.5, delta=0.9),
    ReviewKD(stages=(2, 4), middle=8),
    SP(weight=10.0, stages=(1, 3)),
    SP(weight=10.0, of="embedding"),
    VID(stages=(2, 3)),
]


@pytest.mark.parametrize("method", [*PRESETS, *[pytest.param(m, id=f"{m.name}-{i}") for i, m in enumerate(ARGUMENTS)]])
def test_step(rig, method):
    """Presets and other arguments train: terms are finite, one is positive, and every adapter of the method learns."""
    running = rig(method)
    before = [parameter.clone() for parameter in method.parameters()]
    terms = {name: value for name, value in running.step().items() if name.startswith(f"loss_{method.name}")}
    assert all(value.isfinite() for value in terms.values())
    assert any(value > 0 for value in terms.values())
    assert not any(torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
