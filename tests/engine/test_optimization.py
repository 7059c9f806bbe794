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


def test_optimizer_has_the_trainable_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    sgd = build_optimizer(model, Optimizer(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01))
    adamw = build_optimizer(model, Optimizer(type="adamw", lr=0.1, weight_decay=0.02))
    for optimizer in (sgd, adamw):
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[0].parameters()]
    assert isinstance(adamw, torch.optim.AdamW)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["weight_decay"]) == (0.8, True, 0.01)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (0.1, 0.02)
