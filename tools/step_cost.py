"""What a training step of every method costs, as a multiple of a step of `none`, for the leaderboard of a dataset.

    python tools/step_cost.py --threads 1           all methods on glyphs: leaderboards/steps/glyphs.json

Every method is set up by its default recipe, as a run would, with networks of random weights. The methods then take
turns, a few steps each, round after round in one process, so that other work on the machine meets all alike; what is
reported is the median over the rounds of a method's time over that of `none` in the same round. The steps are those at
the start of the training, and loading is no part of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import torch

from benchmark.data.batch import Batch
from benchmark.data.decode import train_transform
from benchmark.data.loaders import Loading, train_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.engine.optimization import build_optimizer
from benchmark.engine.train import assemble, optim_wrapper
from benchmark.experiment.environment import device_name
from benchmark.model.embedder import Embedder
from benchmark.recipe import Network, Recipe, compose
from benchmark.registry import DATASETS, METHODS
from benchmark.results.step_costs import StepCosts

BASELINE = "none"
BATCHES = 3
"""Different batches that a method sees in a round."""


def network(settings: Network, identities: int, device: torch.device) -> Embedder:
    built = Embedder(**settings.model_dump(exclude={"weights"}), identities=identities)
    return built.to(device).to(memory_format=torch.channels_last)


def batches(recipe: Recipe, dataset: RetrievalDataset, device: torch.device) -> tuple[list[Batch], int]:
    """A few batches on the device, and how many an epoch has."""
    sampler = recipe.train.sampler
    transform = train_transform(recipe.image_size, **recipe.train.augment.model_dump())
    loading = Loading(recipe.image_size, 0, device)
    loader = train_loader(dataset, transform, sampler.identities, sampler.images, 0, loading, sampler.views)
    return [Batch(*(part.to(device) for part in batch)) for batch in islice(loader, BATCHES)], len(loader)


def stepper(recipe: Recipe, dataset: RetrievalDataset, device: torch.device) -> Callable[[], float]:
    """A function that trains on each batch once and returns the seconds that it took."""
    torch.manual_seed(0)
    method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
    seen, steps_per_epoch = batches(recipe, dataset, device)
    teacher, student = (network(part, len(dataset.labels), device) for part in (recipe.teacher.network, recipe.student))
    given = teacher if method.needs.teacher else None
    distiller = assemble(recipe, dataset, student, given, method, steps_per_epoch).to(device)
    wrapper = optim_wrapper(recipe, distiller, build_optimizer(distiller, recipe.train.optimizer), device)
    distiller.task.epoch = recipe.train.task.triplet.from_epoch
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def steps() -> float:
        distiller.train()
        wait()
        start = time.perf_counter()
        for batch in seen:
            distiller.train_step(batch, wrapper)
        wait()
        return time.perf_counter() - start

    return steps


def measure(name: str, methods: Sequence[str], rounds: int, data_root: Path, device: torch.device) -> StepCosts:
    """The costs of `methods`, which include `none`, on the dataset called `name`."""
    recipes = {method: compose(method, name) for method in methods}
    dataset = DATASETS.find(name)(data_root, **recipes[BASELINE].dataset.arguments)
    dataset.prepare()
    steppers = {method: stepper(recipe, dataset, device) for method, recipe in recipes.items()}
    for steps in steppers.values():
        steps()  # to warm up
    times: dict[str, list[float]] = {method: [] for method in methods}
    for number in range(rounds):
        for method, steps in steppers.items():
            times[method].append(steps())
        print(f"round {number + 1} of {rounds}: {1000 * times[BASELINE][-1] / BATCHES:.0f} ms a step of {BASELINE}")
    ratios = {
        method: statistics.median(own / base for own, base in zip(took, times[BASELINE], strict=True))
        for method, took in times.items()
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
    parser.add_argument("methods", nargs="*", help="default: all that are registered")
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
