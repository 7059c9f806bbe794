"""Optimizer and learning rate schedule."""

from typing import Any

import numpy as np
import torch
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import nn

from benchmark.recipe import Optimizer, Schedule

_PARTS = {"student.backbone": "backbone", "student.neck": "neck", "student.head": "head", "task": "task"}
"""Fields of `LearningRates` by the name of a module of the distiller. All other parameters are of the method."""


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Build the optimizer of all trainable parameters, in one parameter group for each learning rate.

    Args:
        model: A `Distiller`.
        settings: The recipe's section.
    """
    times = settings.lr_times.model_dump()
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = next((part for prefix, part in _PARTS.items() if name.startswith(f"{prefix}.")), "method")
        if parameter.requires_grad and times[part]:
            groups.setdefault(times[part], []).append(parameter)
    parameters: list[dict[str, Any]] = [
        {"params": members, "lr": factor * settings.lr} for factor, members in groups.items()
    ]
    if settings.type == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    adam = torch.optim.AdamW if settings.type == "adamw" else torch.optim.Adam
    return adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def build_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, steps_per_epoch: int) -> list[_ParamScheduler]:
    """Build the schedulers of linear warm-up and decay, to be stepped after every iteration."""
    total = schedule.epochs * steps_per_epoch
    warmup = min(schedule.warmup_epochs * steps_per_epoch, total)
    cosine = min(max(schedule.constant_until, schedule.warmup_epochs) * steps_per_epoch, total)
    schedulers: list[_ParamScheduler] = []
    if warmup > 1:
        factor = schedule.warmup_factor
        schedulers.append(LinearLR(optimizer, start_factor=factor, begin=0, end=warmup, by_epoch=False))
    if schedule.decay == "steps":
        steps = [epoch * steps_per_epoch for epoch in schedule.milestones]
        schedulers.append(MultiStepLR(optimizer, milestones=steps, gamma=schedule.gamma, end=total, by_epoch=False))
    elif cosine < total:
        schedulers.append(
            CosineAnnealingLR(
                optimizer,
                T_max=total - cosine,
                eta_min_ratio=schedule.final_factor,
                begin=cosine,
                end=total,
                by_epoch=False,
            )
        )
    return schedulers


def learning_rates(settings: Optimizer, schedule: Schedule, steps_per_epoch: int) -> np.ndarray:
    """Return the learning rate of the backbone at every step, (epochs * steps_per_epoch,).

    It is that of a dummy model that is trained by the schedule.
    """
    dummy = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=settings.lr * settings.lr_times.backbone)
    schedulers = build_schedule(dummy, schedule, steps_per_epoch)
    rates = np.empty(schedule.epochs * steps_per_epoch)
    for step in range(len(rates)):
        rates[step] = dummy.param_groups[0]["lr"]
        dummy.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates
