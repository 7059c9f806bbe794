"""Check the suite on GPUs in at most 8 minutes: tests, equality with the CPU, cost of training steps, processes.

    python tools/gpu_check.py            the paper's size: ResNet-101, images of 256 x 256, batches of 96, a full queue
    python tools/gpu_check.py --cpu      the same checks without a GPU, with small networks: a minute

The report, gpu_check.json, has the measured values of every check and the goals that were missed; exit code 1 if there
are any. Goals for speed are compared on GPUs only, because small networks on a CPU say nothing about them. A check that
would begin after the time limit is left out, and counts as missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loop_overhead import TARGET, measure, overhead
from torch import Tensor
from torch import distributed as dist
from training_probe import ModuleTimer, Training, count_waits

from benchmark.data import default_data_root
from benchmark.experiment.environment import device_name
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_network, save_student
from benchmark.recipe import compose
from benchmark.retrieval import Embeddings, Protocol, evaluate
from benchmark.utils.atomic import write_text
from benchmark.utils.precision import full_precision
from benchmark.version import commit

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 8 * 60
"""Seconds after which no further check begins. The last ones take less than a minute."""
RESET_SHARE = 0.10
"""Largest share of a training step that the gradient resetting of CDD may take."""
SCORE_TOLERANCE = 1e-5
DEPLOY_TOLERANCE = 1e-4
"""Largest difference between the embeddings of a trained and a deployed student, relative to the largest value."""
GRADIENT_TOLERANCE = 1e-10
METHOD_NAMES = ("none", "kd", "cdd")
PRECISIONS = ("bf16", "fp16")


@dataclass(frozen=True)
class Size:
    """Networks and data of the checks."""

    network: tuple[str, ...]
    """Changes of the recipe."""
    images: int
    identities: int
    queue: int
    steps: int
    """Number of timed steps."""
    searched: tuple[int, int]
    """Number of queries and of gallery images."""
    runner: tuple[str, ...]
    """Changes of the recipe that the runner and the bare loop train by."""


PAPER = Size(
    network=(),  # the recipe of VeRi-776
    images=37_778,
    identities=576,
    queue=24_000,
    steps=10,
    searched=(1_678, 11_579),
    runner=(
        *("teacher.network.backbone=resnet101", "teacher.network.args={}", "teacher.network.stem=imagenet"),
        *("image_size=[256,256]", "teacher.train.sampler.identities=16", "teacher.train.sampler.images=6"),
        *("dataset.train_identities=200", "dataset.test_identities=20", "teacher.train.schedule.epochs=3"),
    ),
)
_SMALL = "{channels: [8, 8, 16, 16], stem_width: 8}"
SMALL = Size(
    network=(
        *("teacher.network.backbone=resnet14t", f"teacher.network.args={_SMALL}", "teacher.network.stem=no_pool"),
        *("image_size=[32,32]", "train.sampler.identities=4", "train.sampler.images=3"),
    ),
    images=480,
    identities=40,
    queue=240,
    steps=2,
    searched=(100, 500),
    runner=(
        *("teacher.network.backbone=resnet14t", f"teacher.network.args={_SMALL}"),
        *(
            "dataset.train_identities=40",
            "dataset.test_identities=20",
            "teacher.train.sampler.identities=8",
            "teacher.train.sampler.images=4",
        ),
        "teacher.train.schedule.epochs=2",
    ),
)


@dataclass
class Result:
    """What a check has found."""

    values: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    """A sentence for every goal that was missed."""

    def require(self, met: bool, sentence: str) -> None:
        """Note a sentence unless a goal is met."""
        if not met:
            self.missed.append(sentence)


@dataclass(frozen=True)
class Setup:
    """Where and with what the checks run."""

    device: torch.device
    size: Size
    data_root: Path
    deadline: float

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        return self.deadline - time.monotonic()


def check_tests(setup: Setup) -> Result:
    """Run the tests that need a GPU; all are skipped without one."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(60, setup.left))
    lines = (done.stdout or done.stderr).strip().splitlines()
    result = Result({"summary": lines[-1].strip("= ") if lines else "no output"})
    result.require(done.returncode == 0, f"tests: {result.values['summary']}")
    result.require(not setup.on_gpu or "passed" in result.values["summary"], "tests: none has run")
    return result


def check_scores(setup: Setup) -> Result:
    """Compare the scores of the same embeddings on the CPU and on the device."""
    sets = [_embeddings(count, seed) for seed, count in enumerate(setup.size.searched)]
    protocol, scores, seconds = Protocol(camera_rule=True), {}, {}
    for device in (torch.device("cpu"), setup.device):
        query, gallery = (each.to(device) for each in sets)
        start = time.perf_counter()
        scores[device.type] = evaluate(query, gallery, protocol)
        seconds[device.type] = time.perf_counter() - start
    first, second = scores["cpu"], scores[setup.device.type]
    difference = max(abs(getattr(first, name) - getattr(second, name)) for name in ("mAP", "mINP", "R_precision"))
    result = Result({"mAP": first.mAP, "difference": difference, "seconds": seconds})
    result.require(difference <= SCORE_TOLERANCE, f"scores: CPU and device differ by {difference:.1e}")
    return result


def _embeddings(count: int, seed: int) -> Embeddings:
    """Draw embeddings around the centers of 200 identities, seen by 20 cameras."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(200, 512, generator=torch.Generator().manual_seed(99))
    identities = torch.randint(200, (count,), generator=generator)
    vectors = centers[identities] + 2.5 * torch.randn(count, 512, generator=generator)
    return Embeddings(vectors, identities, torch.randint(20, (count,), generator=generator))


def check_deployed(setup: Setup) -> Result:
    """Compare the embeddings of a trained student, half of whose rows have vanished, with those of its file."""
    training = _training(setup, "cdd", "off")
    student, method = training.distiller.student, training.distiller.method
    training.step()  # for the running statistics of batch norms
    for site in method.sites(student):
        site.weight.data[: site.width // 2] = 0
    student.eval()
    images = training.batch.images
    with torch.no_grad(), full_precision(setup.device):
        expected = student.features(images).embedding
        compact = fold_batchnorm(method.compact(student), images[:2])
    compact.head = None
    with tempfile.TemporaryDirectory() as folder:
        save_student(compact, Path(folder) / "student.pt", training.recipe.image_size)
        deployed = load_network(Path(folder) / "student.pt", setup.device)
    with torch.inference_mode(), full_precision(setup.device):
        difference = float((deployed(images) - expected).abs().max() / expected.abs().max())
    result = Result({"relative_difference": difference, "channels": sum(method.widths)})
    result.require(difference <= DEPLOY_TOLERANCE, f"deployed: the embeddings differ by {difference:.1e}, relative")
    return result


def check_steps(setup: Setup) -> Result:
    """Measure the training steps of methods in both precisions, and the share of gradient resetting."""
    result = Result()
    for precision in PRECISIONS:
        for name in METHOD_NAMES:
            key = f"{name}, {precision}"
            if setup.left < 0:
                result.missed.append(f"steps: no time was left for {key}")
                continue
            values = result.values[key] = _measure_steps(setup, name, precision)
            # The scaler of float16 reads whether gradients are finite once or twice in each step.
            if precision == "bf16":
                waits = values["waits"]
                result.require(not waits, f"steps: the host waits for the device {waits} times in a step of {key}")
            if name == "cdd":
                share, waits = values["reset_share"], values["reset_waits"]
                result.require(
                    not waits, f"steps: the host waits for the device {waits} times in the resetting of {key}"
                )
                result.require(
                    share <= RESET_SHARE or not setup.on_gpu, f"steps: resetting takes {share:.1%} of a step of {key}"
                )
    return result


def _measure_steps(setup: Setup, name: str, precision: str) -> dict[str, Any]:
    training = _training(setup, name, precision)
    training.step()
    training.step()
    memory = training.peak_memory()
    timers = [ModuleTimer(module, setup.device) for module in training.resets]
    seconds = []
    for _ in range(setup.size.steps):
        start = time.perf_counter()
        training.step()
        training.synchronize()
        seconds.append(time.perf_counter() - start)
    in_resetting = [timer.seconds() for timer in timers]  # before further steps, which the timers would count
    step = sorted(seconds)[len(seconds) // 2]
    values = {
        "step_ms": 1000 * step,
        "images_per_second": len(training.batch.images) / step,
        "memory_mb": memory / 2**20,
        "waits": count_waits(training.step, setup.device),
    }
    for timer, module, total in zip(timers, training.resets, in_resetting, strict=True):
        values["reset_ms"] = 1000 * total / setup.size.steps
        values["reset_share"] = total / sum(seconds)
        values["queue_filled"] = module.filled
        values["reset_waits"] = count_waits(partial(module, *timer.arguments), setup.device)
    return values


def _training(setup: Setup, name: str, precision: str) -> Training:
    """Return a training of a method by the recipe of VeRi-776, with a student like its teacher."""
    size = setup.size
    settings = [*size.network, "student.like=teacher", f"runtime.amp={precision}"]
    settings += ["teacher.network.weights=random", "student.weights=random"]
    settings += [f"method.queue={size.queue}", "method.reset_from=0.0"] if name == "cdd" else []
    return Training(compose(name, "veri776", settings=settings), setup.device, size.images, size.identities)


def check_runner(setup: Setup) -> Result:
    """Compare an epoch of the training engine with a bare loop."""
    recipe = compose("none", "glyphs", settings=[*setup.size.runner, "teacher.train.task.triplet.from_epoch=1"])
    timed = measure(recipe.for_teacher(), setup.data_root, setup.device)
    steps = setup.size.images // recipe.teacher.train.sampler.batch_size
    ratio = overhead(timed, "wall", steps)
    result = Result(
        {
            "ratio": ratio,
            "engine_ms": timed.engine.median("wall"),
            "plain_ms": timed.plain.median("wall"),
            "between_epochs_ms": timed.between.median("wall"),
            "steps_per_epoch": steps,
        }
    )
    result.require(ratio <= TARGET or not setup.on_gpu, f"runner: {ratio:.3f} times the time of a bare loop")
    return result


def check_processes(setup: Setup) -> Result:
    """Compare the gradients of as many processes as there are devices with those of one process, in float64."""
    count = torch.cuda.device_count() if setup.on_gpu else 2
    backend = "nccl" if setup.on_gpu else "gloo"
    total = _total_by_a_group_of_one(backend, setup.device)
    worker = str(ROOT / "tests" / "engine" / "gradient_worker.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "steps.pt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", worker]
        command += ["--device", setup.device.type, str(file), *METHOD_NAMES]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=max(60, setup.left))
        steps = torch.load(file, weights_only=True, map_location="cpu")
    differences = {
        name: _distance(*(steps[part][name]["gradients"] for part in ("alone", "together"))) for name in METHOD_NAMES
    }
    result = Result({"backend": backend, "processes": count, "gradient_differences": differences})
    result.require(total == 4, f"processes: the sum by {backend} is {total} instead of 4")
    for name, difference in differences.items():
        result.require(difference <= GRADIENT_TOLERANCE, f"processes: gradients of {name} differ by {difference:.1e}")
    return result


def _total_by_a_group_of_one(backend: str, device: torch.device) -> float:
    """Sum four ones by a collective operation: a single GPU, too, shows whether the backend works."""
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        ones = torch.ones(4, device=device)
        dist.all_reduce(ones)
        return float(ones.sum())
    finally:
        dist.destroy_process_group()


def _distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference between two sets of gradients, relative to the norm of the first."""
    pairs = [(value, second[name]) for name, value in first.items()]
    difference = sum(float((one - other).square().sum()) for one, other in pairs)
    return float((difference / sum(float(one.square().sum()) for one, _ in pairs)) ** 0.5)


CHECKS: dict[str, Callable[[Setup], Result]] = {
    "scores": check_scores,
    "deployed": check_deployed,
    "steps": check_steps,
    "runner": check_runner,
    "processes": check_processes,
    "tests": check_tests,
}


def run_checks(setup: Setup) -> dict[str, Any]:
    """Run all checks, print a line or more for each, and return the report."""
    report: dict[str, Any] = {
        "device": device_name(setup.device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(),
        "size": "paper" if setup.size is PAPER else "small",
        "checks": {},
    }
    for name, check in CHECKS.items():
        start = time.monotonic()
        try:
            result = check(setup) if setup.left > 0 else Result(missed=[f"{name}: no time was left"])
        except Exception as error:  # the other checks are still of use
            result = Result({"traceback": traceback.format_exc()}, [f"{name}: {type(error).__name__}: {error}"])
        seconds = time.monotonic() - start
        report["checks"][name] = {"seconds": round(seconds, 1), "missed": result.missed, "values": result.values}
        print(f"{name:10} {seconds:5.0f} s  {'; '.join(result.missed) or 'ok'}", flush=True)
        for line in _lines(result.values):
            print(f"    {line}", flush=True)
    report["missed"] = [sentence for each in report["checks"].values() for sentence in each["missed"]]
    return report


def _lines(values: dict[str, Any]) -> list[str]:
    """Return the values of a check as short lines."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines.append(f"{name}: " + "  ".join(f"{key} {_text(each)}" for key, each in value.items()))
        elif name != "traceback":
            lines.append(f"{name}: {_text(value)}")
    return lines


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="small networks on the CPU")
    parser.add_argument("--data-root", type=Path, default=default_data_root(), help="where the images of glyphs are")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"))
    arguments = parser.parse_args()
    if not arguments.cpu and not torch.cuda.is_available():
        sys.exit("torch finds no GPU; use --cpu for the same checks with small networks")
    device = torch.device("cpu" if arguments.cpu else "cuda")
    size, deadline = SMALL if arguments.cpu else PAPER, time.monotonic() + TIME_LIMIT
    report = run_checks(Setup(device, size, arguments.data_root, deadline))
    write_text(arguments.output, json.dumps(report, indent=1) + "\n")
    print(f"report {arguments.output}")
    sys.exit(1 if report["missed"] else 0)


if __name__ == "__main__":
    main()
