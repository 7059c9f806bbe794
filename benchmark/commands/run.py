"""`benchmark run`."""

from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from rich.console import Console

from benchmark.engine.hooks import read_metrics
from benchmark.errors import UserError, nearest
from benchmark.model import cost
from benchmark.model.embedder import Embedder
from benchmark.recipe import Recipe
from benchmark.registry import METHODS
from benchmark.results.compression_plot import compression_svg
from benchmark.results.console import result_table
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.store import add_record
from benchmark.run.environment import choose_device
from benchmark.run.experiment import Experiment
from benchmark.run.preflight import check_pairing
from benchmark.utils.atomic import write_text


def execute(recipe: Recipe, work_dir: Path, data_root: Path, device: str, leaderboards: Path, resume: bool) -> None:
    """Do the run, add its record (and its teacher's) to the leaderboards, and print the result."""
    experiment = experiment_of(recipe, work_dir, data_root, device, resume)
    records = leaderboards / "records"
    records.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(prefix=".", dir=records):
        pass  # it can be written to, which is better known now than after hours of training
    record = experiment.run()
    folder = experiment.folder
    trace = read_metrics(folder)
    if "channels" in trace[0]:
        write_text(folder / "compression.svg", compression_svg(trace))
    add_record(record, records)
    teacher = experiment.teacher_record
    if teacher.exists():
        add_record(Record.read(teacher), records)
    pages = generate(leaderboards)
    console = Console()
    console.print(result_table(record))
    console.print(f"run {folder}\npage {pages[-1].parent / f'{record.board}.md'}", highlight=False, soft_wrap=True)


def preview(recipe: Recipe, work_dir: Path, data_root: Path, device: str) -> None:
    """Print the recipe, the models' cost and the dataset's counts."""
    experiment = experiment_of(recipe, work_dir, data_root, device, resume=False)
    lines = experiment.preview()
    Console(highlight=False, soft_wrap=True).print(recipe.yaml(), *lines, sep="\n", markup=False)


def experiment_of(recipe: Recipe, work_dir: Path, data_root: Path, device: str, resume: bool) -> Experiment:
    """The experiment, once all is known to be right that can be known before the first image is read.

    A student that cannot be built would otherwise show only when its teacher is trained.

    Raises:
        UserError: Something the recipe names does not exist, or does not go together.
    """
    chosen = choose_device(device)
    method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
    for key, network in (("teacher.network", recipe.teacher.network), ("student", recipe.student)):
        try:
            with torch.device("meta"):
                built = Embedder(**network.model_dump(exclude={"weights"}))
            cost.count(built, recipe.image_size)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        except (AssertionError, RuntimeError) as error:
            height, width = recipe.image_size
            raise UserError(f"{key}: {network.backbone} takes no {height} x {width} images: {error}") from error
        if network.weights not in ("imagenet", "random", "teacher") and not Path(network.weights).is_file():
            raise UserError(
                f"{key}.weights: {network.weights!r} is neither a file nor one of imagenet, random and teacher"
                f"{nearest(network.weights, ('imagenet', 'random', 'teacher'))}"
            )
    check_pairing(method, recipe)
    checkpoint = recipe.teacher.checkpoint
    if checkpoint is not None and not Path(checkpoint).exists():
        raise UserError(f"teacher.checkpoint: {checkpoint} does not exist")
    backend = recipe.runtime.compile
    if backend is not None and backend not in (known := torch.compiler.list_backends(())):
        raise UserError(
            f"runtime.compile: unknown backend {backend!r}{nearest(backend, known)} Known: {', '.join(known)}."
        )
    if recipe.runtime.tensorboard and find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: `pip install tensorboard`")
    return Experiment(recipe, work_dir, data_root, chosen, resume)
