"""Overhead of the training engine: a training with the runner and all its hooks, and a plain PyTorch loop.

    python tools/loop_overhead.py                                  networks and batches of glyphs; a minute
    python tools/loop_overhead.py --identities 1000 --epochs 12     the complete default training of its teacher

Both train their own network on every batch. They take turns within one process, in alternating order, so that other
work on the machine affects both alike. A step is everything except loading, which they share. The engine's work between
epochs (report, metrics, checkpoint) is timed separately and spread over the steps of an epoch of the complete dataset.
On a busy machine, compare the processor times.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmark.data import default_data_root
from benchmark.data.batch import Batch
from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine import train as engine
from benchmark.engine.optimization import build_optimizer, learning_rates
from benchmark.engine.task import TaskLoss
from benchmark.evaluation import TestSet
from benchmark.methods.none import NoDistillation
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import build
from benchmark.recipe import Recipe, compose
from benchmark.utils.precision import autocast_dtype

TARGET = 1.03
"""Maximum ratio of the engine's time to that of the plain loop."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


class Times(list[tuple[float, ...]]):
    """Durations in seconds, each on every clock."""

    def median(self, clock: str) -> float:
        """Return the median in milliseconds."""
        return 1000 * statistics.median(times[list(CLOCKS).index(clock)] for times in self)

    def add_since(self, start: tuple[float, ...]) -> None:
        """Add the time since `start`."""
        self.append(tuple(end - begin for begin, end in zip(start, now(), strict=True)))


def now() -> tuple[float, ...]:
    return tuple(clock() for clock in CLOCKS.values())


class Alternating:
    """A loader that runs a plain step on every batch, before or after the engine's step, and times both."""

    def __init__(
        self, loader: DataLoader[Batch], plain_step: Callable[[Batch], None], synchronize: Callable[[], None]
    ) -> None:
        self.loader, self.plain_step, self.synchronize = loader, plain_step, synchronize
        self.engine, self.plain, self.between = Times(), Times(), Times()
        self.epoch_end: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Batch]:
        if self.epoch_end is not None:
            self.between.add_since(self.epoch_end)
        for number, batch in enumerate(self.loader):
            if number % 2:
                self._time_plain_step(batch)
            start = now()
            yield batch
            self.synchronize()
            self.engine.add_since(start)
            if not number % 2:
                self._time_plain_step(batch)
        self.epoch_end = now()

    def _time_plain_step(self, batch: Batch) -> None:
        start = now()
        self.plain_step(batch)
        self.synchronize()
        self.plain.add_since(start)


def build_network(recipe: Recipe, identities: int, device: torch.device) -> Embedder:
    torch.manual_seed(0)
    network = build(**recipe.student.model_dump(exclude={"weights"}), identities=identities)
    return network.to(device).to(memory_format=torch.channels_last)


def build_plain_step(recipe: Recipe, identities: int, steps: int, device: torch.device) -> Callable[[Batch], None]:
    """Return one step of a plain training loop, with the learning rates of the recipe."""
    settings = recipe.train
    student = build_network(recipe, identities, device).train()
    optimizer = build_optimizer(student, settings.optimizer)
    rates = iter(learning_rates(settings.optimizer, settings.schedule, steps))
    task = TaskLoss(settings.task)
    task.epoch = settings.task.triplet.from_epoch
    precision = autocast_dtype(recipe.runtime.amp, device)

    def step(batch: Batch) -> None:
        optimizer.param_groups[0]["lr"] = float(next(rates))
        images, labels = batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = sum(task(student.features(images), labels).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(recipe: Recipe, data_root: Path, device: torch.device) -> Alternating:
    """Train with the engine, and run a plain step between its steps."""
    dataset = Glyphs(data_root, **recipe.dataset.arguments)
    dataset.prepare()
    identities = len(dataset.labels)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    loaders: list[Alternating] = []
    original = engine.train_loader

    def alternating(*arguments: Any, **options: Any) -> Alternating:
        loader = original(*arguments, **options)
        plain_step = build_plain_step(recipe, identities, len(loader), device)
        loaders.append(Alternating(loader, plain_step, synchronize))
        return loaders[0]

    engine.train_loader = alternating
    with tempfile.TemporaryDirectory() as folder:
        engine.train(
            build_network(recipe, identities, device),
            None,
            NoDistillation(),
            recipe=recipe,
            test=TestSet(dataset, Loading(recipe.image_size, device=device), recipe.evaluate.batch_size),
            folder=Path(folder),
            resume=False,
            title="engine",
        )
    return loaders[0]


def overhead(timed: Alternating, clock: str, steps: int) -> float:
    """Return the ratio of the engine's time to that of the plain loop, for epochs of a number of steps."""
    return (timed.engine.median(clock) + timed.between.median(clock) / steps) / timed.plain.median(clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=200, help="training identities; the complete dataset: 1000")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root", type=Path, default=default_data_root())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = [f"dataset.train_identities={arguments.identities}"]
    settings += [f"teacher.train.schedule.epochs={arguments.epochs}", "teacher.train.task.triplet.from_epoch=1"]
    default = compose("none", "glyphs").for_teacher()
    recipe = compose("none", "glyphs", settings=settings).for_teacher()

    timed = measure(recipe, arguments.data_root, torch.device(arguments.device))
    batch = default.train.sampler.identities * default.train.sampler.images
    steps = Glyphs.card.splits["train"].images // batch
    print(f"{len(timed.plain)} steps of {batch} images each, {arguments.threads} threads, {arguments.device}; medians")
    for clock in CLOCKS:
        engine_step, plain_step, between = (times.median(clock) for times in (timed.engine, timed.plain, timed.between))
        ratio = overhead(timed, clock, steps)
        print(
            f"{clock} time: {engine_step:.2f} ms per step of the engine, {plain_step:.2f} ms per plain step, "
            f"{between:.0f} ms between epochs; ratio for an epoch of {steps} steps: {ratio:.4f}"
        )
    print(f"target: a ratio of at most {TARGET}")


if __name__ == "__main__":
    main()
