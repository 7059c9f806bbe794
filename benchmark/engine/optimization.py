"""Optimizer and learning rate schedule."""

import numpy as np
import torch
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import nn

from benchmark.recipe import Optimizer, Schedule


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Build the optimizer of all trainable parameters, in one parameter group."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.type == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def build_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, steps_per_epoch: int) -> list[_ParamScheduler]:
    """Build the schedulers of linear warm-up and cosine decay, to be stepped after every iteration."""
    total = schedule.epochs * steps_per_epoch
    warmup = min(schedule.warmup_epochs * steps_per_epoch, total)
    cosine = min(max(schedule.constant_until, schedule.warmup_epochs) * steps_per_epoch, total)
    schedulers: list[_ParamScheduler] = []
    if warmup > 1:
        factor = schedule.warmup_factor
        schedulers.append(LinearLR(optimizer, start_factor=factor, begin=0, end=warmup, by_epoch=False))
    if cosine < total:
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
    """Return the learning rate of every step, (epochs * steps_per_epoch,), by running the schedule on a dummy model."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=settings.lr)
    schedulers = build_schedule(optimizer, schedule, steps_per_epoch)
    rates = np.empty(schedule.epochs * steps_per_epoch)
    for step in range(len(rates)):
        rates[step] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates
