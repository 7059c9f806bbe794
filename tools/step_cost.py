"""Measure the cost of a training step of every method, as a multiple of a step of `none`, for a leaderboard.

    python tools/step_cost.py --threads 1           all methods on glyphs: leaderboards/steps/glyphs.json

Every method uses its default recipe, as in a run, with randomly initialized networks. The methods take turns in one
process, a few steps each per round, so that other work on the machine affects all of them alike. The result is the
median over the rounds of a method's time divided by the time of `none` in the same round. The steps are those at the
start of training, and exclude data loading.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import torch

from benchmark.data.augment import train_transform
from benchmark.data.batch import Batch
from benchmark.data.loaders import Loading, train_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.engine.optimization import build_optimizer
from benchmark.engine.train import assemble, optim_wrapper
from benchmark.experiment.environment import device_name
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import build
from benchmark.recipe import Network, Recipe, compose
from benchmark.registry import DATASETS, METHODS
from benchmark.results.step_costs import StepCosts

BASELINE = "none"
BATCHES = 3
"""Number of batches, and so of steps, per method and round."""


def build_network(settings: Network, identities: int, device: torch.device) -> Embedder:
    """Build a network with random weights on the device."""
    network = build(**settings.model_dump(exclude={"weights"}), identities=identities)
    return network.to(device).to(memory_format=torch.channels_last)


def load_batches(recipe: Recipe, dataset: RetrievalDataset, device: torch.device) -> tuple[list[Batch], int]:
    """Return the first batches on the device, and the number of batches per epoch."""
    sampler = recipe.train.sampler
    transform = train_transform(recipe.image_size, **recipe.train.augment.model_dump(exclude={"load_size"}))
    loading = Loading(recipe.image_size, 0, device)
    loader = train_loader(
        dataset,
        transform,
        identities=sampler.identities,
        images=sampler.images,
        seed=0,
        loading=loading,
        views=sampler.views,
    )
    return [Batch(*(part.to(device) for part in batch)) for batch in islice(loader, BATCHES)], len(loader)


def build_timer(recipe: Recipe, dataset: RetrievalDataset, device: torch.device) -> Callable[[], float]:
    """Return a function that trains on each batch once and returns the elapsed seconds."""
    torch.manual_seed(0)
    method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
    batches, steps_per_epoch = load_batches(recipe, dataset, device)
    teacher, student = (
        build_network(settings, len(dataset.labels), device) for settings in (recipe.teacher.network, recipe.student)
    )
    distiller = assemble(
        student,
        teacher if method.needs.teacher else None,
        method,
        recipe=recipe,
        dataset=dataset,
        steps_per_epoch=steps_per_epoch,
    ).to(device)
    wrapper = optim_wrapper(distiller, build_optimizer(distiller, recipe.train.optimizer), recipe, device)
    distiller.task.epoch = recipe.train.task.triplet.from_epoch
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def time_steps() -> float:
        distiller.train()
        synchronize()
        start = time.perf_counter()
        for batch in batches:
            distiller.train_step(batch, wrapper)
        synchronize()
        return time.perf_counter() - start

    return time_steps


def measure(name: str, methods: Sequence[str], rounds: int, data_root: Path, device: torch.device) -> StepCosts:
    """Measure the methods, which must include `none`, on a dataset.

    Args:
        name: Name of the dataset.
        methods: Names of the methods.
        rounds: Number of rounds.
        data_root: Folder of the datasets.
        device: Where to train.
    """
    recipes = {method: compose(method, name) for method in methods}
    dataset = DATASETS.find(name)(data_root, **recipes[BASELINE].dataset.arguments)
    dataset.prepare()
    timers = {method: build_timer(recipe, dataset, device) for method, recipe in recipes.items()}
    for time_steps in timers.values():
        time_steps()  # warm-up
    times: dict[str, list[float]] = {method: [] for method in methods}
    for number in range(rounds):
        for method, time_steps in timers.items():
            times[method].append(time_steps())
        print(f"round {number + 1} of {rounds}: {1000 * times[BASELINE][-1] / BATCHES:.0f} ms per step of {BASELINE}")
    ratios = {
        method: statistics.median(own / base for own, base in zip(seconds, times[BASELINE], strict=True))
        for method, seconds in times.items()
    }
    return StepCosts(
        dataset=name,
        device=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        batch=recipes[BASELINE].train.sampler.batch_size,
        rounds=rounds,
        ratios={method: round(ratio, 3) for method, ratio in sorted(ratios.items())},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="names of methods; default: all")
    parser.add_argument("--dataset", default="glyphs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root", type=Path, default=Path.home() / ".cache" / "benchmark")
    parser.add_argument("--output", type=Path, help="default: leaderboards/steps/DATASET.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    methods = [BASELINE, *(name for name in arguments.methods or METHODS.names() if name != BASELINE)]
    costs = measure(arguments.dataset, methods, arguments.rounds, arguments.data_root, torch.device(arguments.device))
    for method, ratio in costs.ratios.items():
        print(f"{method:24} {ratio:.2f}")
    output = arguments.output or Path("leaderboards") / "steps" / f"{arguments.dataset}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    costs.write(output)


if __name__ == "__main__":
    main()
