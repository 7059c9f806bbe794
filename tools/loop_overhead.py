"""What the runner costs: a training by the engine, with all its hooks, against a bare PyTorch loop of the same work.

    python tools/loop_overhead.py                   the network and batches of glyphs' own recipe; about a minute
    python tools/loop_overhead.py --identities 1000 --epochs 12        the whole default training of its teacher

Both train a network of their own on every batch, step by step in one process and in alternating order, so that other
work on the machine meets both alike. A step is everything but loading, which they share. What the engine does between
epochs (figures, metrics, checkpoint) is timed beside it and spread over the steps of a real epoch. On a busy machine
look at the processor's time.
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

from benchmark.data.batch import Batch
from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine import train as engine
from benchmark.engine.distiller import TaskLoss
from benchmark.engine.optimization import build_optimizer, learning_rates
from benchmark.evaluation import TestSet
from benchmark.methods.none import NoDistillation
from benchmark.model.embedder import Embedder
from benchmark.recipe import Recipe, compose
from benchmark.utils.precision import uses_bfloat16

TARGET = 1.03
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


class Times(list[tuple[float, ...]]):
    """What was timed, on every clock."""

    def median(self, clock: str) -> float:
        """In milliseconds."""
        return 1000 * statistics.median(times[list(CLOCKS).index(clock)] for times in self)

    def add(self, start: tuple[float, ...]) -> None:
        self.append(tuple(end - begin for begin, end in zip(start, now(), strict=True)))


def now() -> tuple[float, ...]:
    return tuple(clock() for clock in CLOCKS.values())


class Alternating:
    """A loader that does a bare step on every batch, before or after the engine's, and times both."""

    def __init__(self, loader: DataLoader[Batch], bare: Callable[[Batch], None], wait: Callable[[], None]) -> None:
        self.loader, self.bare, self.wait = loader, bare, wait
        self.ours, self.plain, self.between = Times(), Times(), Times()
        self.ended: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Batch]:
        if self.ended is not None:
            self.between.add(self.ended)
        for number, batch in enumerate(self.loader):
            if number % 2:
                self._bare(batch)
            start = now()
            yield batch
            self.wait()
            self.ours.add(start)
            if not number % 2:
                self._bare(batch)
        self.ended = now()

    def _bare(self, batch: Batch) -> None:
        start = now()
        self.bare(batch)
        self.wait()
        self.plain.add(start)


def network(recipe: Recipe, identities: int, device: torch.device) -> Embedder:
    torch.manual_seed(0)
    built = Embedder(**recipe.student.model_dump(exclude={"weights"}), identities=identities)
    return built.to(device).to(memory_format=torch.channels_last)


def bare_step(recipe: Recipe, identities: int, steps: int, device: torch.device) -> Callable[[Batch], None]:
    """One step of a loop that anybody would write, with the rates of the recipe's schedule."""
    settings = recipe.train
    student = network(recipe, identities, device).train()
    optimizer = build_optimizer(student, settings.optimizer)
    rates = iter(learning_rates(settings.optimizer, settings.schedule, steps))
    task = TaskLoss(settings.task)
    task.epoch = settings.task.triplet.from_epoch
    short = uses_bfloat16(recipe.runtime.amp, device)

    def step(batch: Batch) -> None:
        optimizer.param_groups[0]["lr"] = float(next(rates))
        images, labels = batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=short):
            loss = sum(task(student.features(images), labels).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(recipe: Recipe, data_root: Path, device: torch.device) -> Alternating:
    """Train by the engine, with the bare steps in between."""
    dataset = Glyphs(data_root, **recipe.dataset.arguments)
    dataset.prepare()
    identities = len(dataset.labels)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    made: list[Alternating] = []
    original = engine.train_loader

    def alternating(*arguments: Any, **options: Any) -> Alternating:
        loader = original(*arguments, **options)
        made.append(Alternating(loader, bare_step(recipe, identities, len(loader), device), wait))
        return made[0]

    engine.train_loader = alternating
    with tempfile.TemporaryDirectory() as folder:
        student = network(recipe, identities, device)
        test = TestSet(dataset, Loading(recipe.image_size, device=device), recipe.evaluate.batch_size)
        engine.train(recipe, test, student, None, NoDistillation(), Path(folder), device, False, "engine")
    return made[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=200, help="training identities; the full set has 1000")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root", type=Path, default=Path.home() / ".cache" / "benchmark")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = [f"dataset.train_identities={arguments.identities}"]
    settings += [f"teacher.train.schedule.epochs={arguments.epochs}", "teacher.train.task.triplet.from_epoch=1"]
    full = compose("none", "glyphs").for_teacher()
    recipe = compose("none", "glyphs", settings=settings).for_teacher()

    timed = measure(recipe, arguments.data_root, torch.device(arguments.device))
    batch = full.train.sampler.identities * full.train.sampler.images
    steps = Glyphs.card.splits["train"].images // batch
    print(f"{len(timed.plain)} steps of {batch} images each, {arguments.threads} threads, {arguments.device}; medians")
    for clock in CLOCKS:
        ours, plain, between = (times.median(clock) for times in (timed.ours, timed.plain, timed.between))
        print(
            f"{clock} time: a step {ours:.2f} ms by the engine, {plain:.2f} ms by the bare loop; between epochs "
            f"{between:.0f} ms; an epoch of {steps} steps: ratio {(ours + between / steps) / plain:.4f}"
        )
    print(f"target: a ratio of at most {TARGET}")


if __name__ == "__main__":
    main()
