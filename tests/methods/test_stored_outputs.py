"""Every method trains with stored outputs of the teacher, or is refused for a stated reason."""

import pytest
import torch

from benchmark import METHODS
from benchmark.combination import combine
from benchmark.engine.teacher_outputs import Layout, require_outputs_suffice
from benchmark.errors import UserError

MAPS, LAYERS, ALONE = "reads feature maps of the teacher (", "or computes with its layers", "uses no outputs"
REFUSED = {
    **dict.fromkeys(("at", "deap", "mkd", "nst", "ofd", "reviewkd", "sp", "ugd", "vid"), MAPS),
    "cdd": LAYERS,
    **dict.fromkeys(("mrl", "none", "slimming", "uniform"), ALONE),
}
"""The reason for which a method is refused, with its default parameters."""


def reason(method, name, recipe) -> str | None:
    try:
        require_outputs_suffice(method, name, recipe)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", METHODS.names())
def test_trains_without_the_teacher_or_is_refused(name, rig, tiny):
    method, recipe = METHODS.find(name)(), tiny("kd", "teacher.cached_views=2")
    if name in REFUSED:
        assert REFUSED[name] in reason(method, name, recipe)
        return
    assert reason(method, name, recipe) is None
    made = rig(method)
    with torch.no_grad():
        outputs = made.teacher.features(made.images)
    made.distiller.stored = layout = Layout.of(outputs)
    for module in made.teacher.modules():
        module.register_forward_pre_hook(refuse)
    made.batches = [made.batches[0]._replace(stored=layout.pack(outputs))]
    for _ in range(2):
        assert all(value.isfinite() for value in made.step().values())


def refuse(module, inputs):
    raise AssertionError(f"{type(module).__name__} of the teacher computes")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sp", {"of": "embedding"}, None),
        ("fitnet", {"on": "stages"}, MAPS),
        ("kd+at", {}, MAPS),
        ("kd+cdd", {}, LAYERS),
        ("kd+csd", {}, None),
    ],
)
def test_arguments_and_combinations(name, settings, message, tiny):
    parts = {part: METHODS.find(part) for part in name.split("+")}
    cls = combine(name, parts) if len(parts) > 1 else parts[name]
    found = reason(cls(**settings), name, tiny("kd", "teacher.cached_views=2"))
    assert (found is None) if message is None else (message in found)


def test_off_is_never_refused(tiny):
    assert reason(METHODS.find("at")(), "at", tiny("at")) is None


def test_fewer_fixed_views_than_views_in_a_batch(tiny):
    recipe = tiny("kd", "teacher.cached_views=2", "train.sampler.views=3")
    assert "a batch has 3 views of every image" in reason(METHODS.find("kd")(), "kd", recipe)
