"""The first lines of a run: what is trained, for how long."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.engine.files import read_metrics
from benchmark.errors import UserError
from benchmark.experiment.readiness import Training
from benchmark.model.cost import Size
from benchmark.recipe import Recipe
from benchmark.results.record import Record

_EARLIER_RUNS = 10
"""Maximum number of earlier records that are read for an estimate of the time."""
_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def first_lines(
    recipe: Recipe, trainings: Sequence[Training], sizes: Sequence[Size], images: int, device: str, threads: int
) -> list[str]:
    """Return three lines: the networks and the dataset, the epochs of the trainings, and the expected time.

    Args:
        recipe: The run's recipe.
        trainings: Its trainings that are not finished.
        sizes: Cost of the teachers and of the student, before training.
        images: Number of training images.
        device: Name of the device that trains.
        threads: Number of threads of CPU operators.
    """
    roles = (*("teacher" for _ in recipe.teachers), "student")
    networks = zip(roles, (*(each.network for each in recipe.teachers), recipe.student), sizes, strict=True)
    *teachers, student = (
        f"{role} {network.title()} ({size.parameters / 1e6:.2f} M parameters)" for role, network, size in networks
    )
    trains_student = any(training.role == "student" for training in trainings)
    titles = ", ".join([*teachers, student] if trains_student else teachers[:1])
    method, seed = (recipe.method.name, recipe.seed) if trains_student else ("none", recipe.teacher.seed)
    return [
        f"{method} on {recipe.dataset.name}, seed {seed}: {titles}",
        _epochs(recipe, trainings, images),
        f"expected time: {_expected_time(trainings, images, device, threads)}",
    ]


def _epochs(recipe: Recipe, trainings: Sequence[Training], images: int) -> str:
    roles = {training.role for training in trainings}
    phrases = []
    for number, (key, teacher) in enumerate(zip(recipe.teacher_keys, recipe.teachers, strict=True), start=1):
        name = _named("teacher" if number == 1 else f"teacher {number}")
        if teacher.checkpoint is not None:
            phrases.append(f"{name} is {_shortened(teacher.checkpoint)}")
        elif teacher.frozen:
            phrases.append(f"{name} is not trained")
        elif key not in roles:
            phrases.append(f"{name} is trained already")
    for training in trainings:
        total = training.recipe.train.schedule.epochs
        batch = training.recipe.train.sampler.batch_size
        epochs = f"{total} epoch{'' if total == 1 else 's'}"
        phrases.append(f"{epochs} for {_named(training.title)} ({training.key}.schedule.epochs) in batches of {batch}")
    if (views := recipe.teacher.cached_views) and "student" in roles:
        passes = f"{views * images:,} forward passes of the teacher, once for all runs"
        phrases.append(f"{views} fixed view{'' if views == 1 else 's'} of every image for the student: {passes}")
    return f"{images:,} training images; {', '.join(phrases)}"


def _named(title: str) -> str:
    """Return what a sentence calls a network: "the teacher" or "teacher 2"."""
    return title if title[-1].isdigit() else f"the {title}"


def _shortened(checkpoint: str) -> str:
    return f"published as {checkpoint[:19]}…" if checkpoint.startswith("sha256:") else f"loaded from {checkpoint}"


def _expected_time(trainings: Sequence[Training], images: int, device: str, threads: int) -> str:
    """Return the time of all trainings by the epochs that are done and by earlier runs, or that it is not known."""
    phrases, seconds = [], 0.0
    for training in trainings:
        rate = _seconds_per_epoch(training, images, device, threads)
        if rate is None:
            phrases.append(f"{training.title} unknown until its first epoch")
        else:
            remaining = rate * (training.recipe.train.schedule.epochs - len(_epoch_seconds(training.folder.path)))
            phrases.append(f"{training.title} about {duration(remaining)}")
            seconds += remaining
    if all("unknown" in phrase for phrase in phrases):
        return "unknown until the first epoch"
    total = f"about {duration(seconds)} (" if len(phrases) > 1 and "unknown" not in "".join(phrases) else ""
    return f"{total}{', '.join(phrases)}{')' if total else ''}, plus the evaluation"


def _seconds_per_epoch(training: Training, images: int, device: str, threads: int) -> float | None:
    """Return the mean time of the finished epochs, or that of an earlier run of the same training on this device."""
    if seconds := _epoch_seconds(training.folder.path):
        return sum(seconds) / len(seconds)
    for record in _earlier_records(training.folder.path.parent):
        here = (device, threads, images)
        there = (record.environment.device, record.environment.threads, record.data.splits["train"].images)
        if here == there and _work(record.recipe) == _work(training.recipe.model_dump(mode="json")):
            return record.timing.train_seconds / record.recipe["train"]["schedule"]["epochs"]
    return None


def _work(recipe: dict) -> list:
    """Return the settings of a recipe on which the time of an epoch depends."""
    teacher, train = recipe.get("teacher", {}), recipe.get("train", {})
    settings = [recipe.get(key) for key in ("method", "image_size", "student")]
    stored = bool(teacher.get("cached_views"))  # without forward passes of the teacher
    return [*settings, teacher.get("network"), stored, train.get("sampler"), recipe.get("runtime", {}).get("amp")]


def _epoch_seconds(folder: Path) -> list[float]:
    try:
        return [row["seconds"] for row in read_metrics(folder) if "seconds" in row]
    except UserError:  # the training reports it
        return []


def _earlier_records(runs: Path) -> Iterator[Record]:
    """Yield the newest records of the runs in a folder."""
    files = sorted(runs.glob("*/record*.json"), key=os.path.getmtime, reverse=True)
    for path in files[:_EARLIER_RUNS]:
        try:
            yield Record.read(path)
        except UserError:
            continue


def duration(seconds: float) -> str:
    """Return a time in words, such as "40 seconds" or "3.5 hours"."""
    name, unit = next(((name, unit) for name, unit in _UNITS if seconds >= 2 * unit), _UNITS[-1])
    value = seconds / unit
    return f"{value:.0f} {name}" if value >= 10 or name == "seconds" else f"{value:.1f} {name}"
