"""Optimizer and learning rate schedule."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmark.engine.optimization import build_optimizer, learning_rates
from benchmark.methods.none import NoDistillation
from benchmark.recipe import Optimizer, Schedule

STEPS = 7
"""Steps per epoch."""


def by_equation(lr: float, schedule: Schedule) -> np.ndarray:
    """Warm-up to the full rate, which its last step has, a constant part, and a cosine over the remaining steps."""
    rates = []
    warmup = schedule.warmup_epochs * STEPS
    cosine = max(schedule.constant_until, schedule.warmup_epochs) * STEPS
    total = schedule.epochs * STEPS
    for step in range(total):
        if step < warmup:
            factor = schedule.warmup_factor + (1 - schedule.warmup_factor) * step / (warmup - 1)
        elif step < cosine:
            factor = 1.0
        else:
            wave = (1 + np.cos(np.pi * (step - cosine) / (total - cosine))) / 2
            factor = schedule.final_factor + (1 - schedule.final_factor) * wave
        rates.append(lr * factor)
    return np.array(rates)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(epochs=6, warmup_epochs=2, warmup_factor=0.1, constant_until=4, final_factor=0.01),
        Schedule(epochs=5, warmup_epochs=0, constant_until=0, final_factor=0.0),
        Schedule(epochs=3, warmup_epochs=1, warmup_factor=0.5, constant_until=3),
        Schedule(epochs=4, warmup_epochs=3, warmup_factor=0.2, constant_until=1, final_factor=0.1),
        Schedule(epochs=2, warmup_epochs=2, warmup_factor=1.0, constant_until=2),
    ],
    ids=["all parts", "cosine only", "constant to the end", "warm-up beyond the constant part", "no decay"],
)
def test_learning_rates(schedule):
    assert learning_rates(Optimizer(lr=0.3), schedule, STEPS) == pytest.approx(by_equation(0.3, schedule), rel=1e-9)


def test_warm_up_longer_than_the_training():
    rates = learning_rates(Optimizer(lr=1.0), Schedule(epochs=2, warmup_epochs=10, constant_until=40), STEPS)
    assert (np.diff(rates) > 0).all()
    assert (rates[0], rates[-1]) == (pytest.approx(0.1), pytest.approx(1.0))


def test_end_points():
    schedule = Schedule(epochs=4, warmup_epochs=1, warmup_factor=0.25, constant_until=2, final_factor=1e-3)
    rates = learning_rates(Optimizer(lr=0.8), schedule, 100)
    assert rates[0] == pytest.approx(0.2)
    assert rates[99:201] == pytest.approx(np.full(102, 0.8))
    assert rates[-1] == pytest.approx(0.8e-3, rel=0.1)


def test_training_uses_the_rates_of_the_plan(tiny, train_tiny, tmp_path):
    recipe = tiny(
        "none", "train.schedule.epochs=3", "train.schedule.warmup_epochs=1", "train.schedule.constant_until=2"
    )
    method, used = NoDistillation(), []
    method.prepare = lambda student, teacher, plan: setattr(method, "plan", plan)

    def note(optimizer, *_):
        if len(optimizer.param_groups[0]["params"]) > 1:  # not the dummy optimizer of `learning_rates`
            used.append(optimizer.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(note)
    try:
        train_tiny(recipe, tmp_path, method=method)
    finally:
        handle.remove()
    assert len(set(used)) > 3
    assert used == [method.plan.learning_rate(step) for step in range(method.plan.steps)]


def test_steps():
    schedule = Schedule(epochs=6, warmup_epochs=1, decay="steps", milestones=(2, 4), gamma=0.5)
    rates = learning_rates(Optimizer(lr=0.4), schedule, STEPS)
    assert rates[:STEPS] == pytest.approx(by_equation(0.4, Schedule(epochs=1, warmup_epochs=1)), rel=1e-9)
    expected = np.repeat([0.4, 0.2, 0.2, 0.1, 0.1], STEPS)
    assert rates[STEPS:] == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong",
    [{"decay": "steps"}, {"milestones": (4,)}, {"decay": "steps", "milestones": (4, 2)}],
)
def test_milestones_without_steps(wrong):
    with pytest.raises(ValueError, match="milestones"):
        Schedule(**wrong)


def parts_model():
    """Modules with the names of the parts of a distiller."""
    student = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("backbone", "neck", "head")})
    return nn.ModuleDict({"student": student, "method": nn.Linear(2, 2), "task": nn.Linear(2, 2)})


def test_learning_rates_of_parts():
    model = parts_model()
    settings = Optimizer(lr=0.1, lr_times={"backbone": 0.1, "neck": 1.5, "head": 1.5, "task": 0.0})
    optimizer = build_optimizer(model, settings)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"student.backbone": 0.01, "student.neck": 0.15, "student.head": 0.15, "method": 0.1}
    for name, parameter in model.named_parameters():
        assert rates.get(id(parameter)) == pytest.approx(expected.get(name.rpartition(".")[0]))
    schedule = Schedule(epochs=3, warmup_epochs=1, constant_until=2)
    first, *_ = [group["lr"] for group in optimizer.param_groups]
    assert first == pytest.approx(learning_rates(settings, schedule, STEPS)[STEPS])  # of the backbone


def test_one_group_if_the_rates_are_equal():
    assert len(build_optimizer(parts_model(), Optimizer(lr=0.1)).param_groups) == 1


def test_frozen_epochs(tiny, train_tiny, tmp_path):
    """The backbone keeps its weights and statistics for one epoch of two; the neck does not."""
    states = []

    class Noting(NoDistillation):
        def after_epoch(self, student, progress):
            states.append({name: value.clone() for name, value in student.state_dict().items()})
            return []

    changes = ["train.schedule.epochs=2", "train.schedule.warmup_epochs=0", "train.schedule.frozen_epochs=1"]
    method = Noting()
    method.prepare = lambda student, *_: states.append({n: v.clone() for n, v in student.state_dict().items()})
    train_tiny(tiny("none", *changes), tmp_path, method=method)
    start, frozen, trained = states
    for name, value in start.items():
        if name.startswith("backbone."):
            assert torch.equal(frozen[name], value), name
    assert any(not torch.equal(frozen[name], value) for name, value in start.items() if name.startswith("neck."))
    assert not torch.equal(trained["backbone.conv1.0.weight"], start["backbone.conv1.0.weight"])


def test_optimizer_has_the_trainable_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    sgd = build_optimizer(model, Optimizer(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01))
    adamw = build_optimizer(model, Optimizer(type="adamw", lr=0.1, weight_decay=0.02))
    assert type(build_optimizer(model, Optimizer(type="adam"))) is torch.optim.Adam
    for optimizer in (sgd, adamw):
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[0].parameters()]
    assert isinstance(adamw, torch.optim.AdamW)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["weight_decay"]) == (0.8, True, 0.01)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (0.1, 0.02)
