"""Kill tiny runs, record writers and suites at random moments, resume them, and compare with an undisturbed run.

    python tools/kill_campaign.py --trials 30             # kills of a run, by any of the signals below
    python tools/kill_campaign.py --kind worker --trials 30    # kills of a process that loads images, by SIGKILL
    python tools/kill_campaign.py --kind disk --trials 30      # runs whose files cannot exceed a random size
    python tools/kill_campaign.py --kind records --trials 300  # kills of a process that writes records, by SIGKILL
    python tools/kill_campaign.py --kind suite --trials 10     # kills of `benchmark suite --jobs 2`

A trial is one kill, or one limit. A fault is whatever must not happen: another result, another exit code, a traceback,
a process or a temporary file that is left. A loss is a record that was written and is gone. Exits with 1 after a fault
or a loss. The same seed gives the same signals and delays, though not the same moments. Linux only.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

# Imported before processes are forked, so that each starts at once.
import matplotlib.figure  # noqa: F401
import scipy.stats  # noqa: F401
import torch
import torch.utils.benchmark

from benchmark import __main__ as program
from benchmark.commands import run  # noqa: F401
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine import train  # noqa: F401
from benchmark.experiment import experiment  # noqa: F401
from benchmark.model import latency
from benchmark.results import leaderboard  # noqa: F401
from benchmark.results.record import Record
from benchmark.results.store import add_record, load_records

RECIPE = """
version: 1
seed: 0
method: {name: kd}
image_size: [32, 32]
dataset: {name: glyphs, train_identities: 24, test_identities: 12}
teacher:
  network: &network
    {backbone: resnet14t, args: {channels: [8, 8, 16, 16], stem_width: 8}, stem: no_pool, last_stride: 2, dim: 16,
    head: cosine, weights: random}
  train: &train
    task: {triplet: {feature: embedding, normalize: true}}
    optimizer: {lr: 0.05, nesterov: true}
    schedule: {epochs: 2, warmup_epochs: 0, constant_until: 1}
    sampler: {identities: 8, images: 4}
    augment: {pad: 2, pad_mode: edge, flip: 0, erase: 0}
student: *network
train: *train
evaluate: {batch_size: 128}
runtime: {threads: 1, amp: "off"}
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
SURVIVAL = 5.0
"""Time in seconds after which the processes that a killed one has started must have ended."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Outcome:
    """What a campaign has counted."""

    trials: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    acknowledged: int = 0
    lost: int = 0


class Workshop:
    """Runs command lines in forked processes, in a folder with data and a recipe.

    Args:
        folder: An existing empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(RECIPE)
        latency._MAX_SECONDS = 0.02  # the longest part of a tiny run, in which nothing is written
        Glyphs(folder / "data", train_identities=24, test_identities=12).prepare()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become children of this process

    def start(self, work: Path, command: str, *options: str, largest_file: int | None = None) -> int:
        """Start a command in a forked process and return its id; it writes its output to `log`."""
        places = {"--config": self.recipe, "--work-dir": work, "--leaderboards": work / "boards"}
        places |= {"--data-root": self.folder / "data"}
        arguments = [command, "--device", "cpu", *(str(part) for place in places.items() for part in place), *options]
        process = os.fork()
        if process:
            return process
        try:
            os.setsid()
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            for number in SIGNALS[1:]:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            sys.argv = ["benchmark", *arguments]
            program.main()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    @property
    def log(self) -> Path:
        """Output of the command started last."""
        return self.folder / "output.txt"

    def wait(self, process: int, seconds: float = 600) -> int | None:
        """Return the exit code of a process, or minus its signal; None if it has not ended after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return None

    def survivors(self) -> int:
        """Wait for the processes that a killed one has left, and return the number of those that do not end."""
        end = time.monotonic() + SURVIVAL
        while time.monotonic() < end:
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.01)
            except ChildProcessError:
                return 0
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        return len(children)


def results(work: Path) -> dict[str, object]:
    """Return everything that must not depend on interruptions: networks and records of teacher and student."""
    found: dict[str, object] = {}
    for path in sorted(work.glob("glyphs/*/*/student.pt")):
        weights = torch.load(path, weights_only=True)["weights"]
        found[str(path.relative_to(work))] = {name: value.numpy().tobytes() for name, value in weights.items()}
    for path in sorted([*work.glob("glyphs/*/*/record.json"), *work.glob("boards/records/*.json")]):
        found[str(path.relative_to(work))] = Record.read(path).fingerprint()
    return found


def leftovers(work: Path) -> list[str]:
    """Return the temporary files and folders in a work folder."""
    names = (path for path in work.rglob("*") if ".tmp-" in path.name or re.fullmatch(r"\d{8}_\d{6}", path.name))
    return [str(path.relative_to(work)) for path in names]


def disturbed_run(place: Workshop, trials: int, rng: random.Random, kind: str) -> Outcome:
    """Disturb runs at random moments until they end, and compare them with an undisturbed run."""
    outcome, options = Outcome(), ["--resume", *(["--set", "runtime.workers=2"] if kind == "worker" else [])]
    start = time.monotonic()
    straight = place.folder / "straight"
    code = place.wait(place.start(straight, "run", *options))
    duration, expected = time.monotonic() - start, results(straight)
    assert code == 0, place.log.read_text()
    work, records = place.folder / "work", {}
    while outcome.trials.total() < trials or work.exists():
        last = outcome.trials.total() >= trials
        largest = int(2 ** rng.uniform(9, 17)) if kind == "disk" and not last else None
        process = place.start(work, "run", *options, largest_file=largest)
        code, name = None, "limit"
        if not last and kind != "disk":
            code = place.wait(process, rng.uniform(0, 1.1 * duration))
            number = rng.choice(SIGNALS) if kind == "run" else signal.SIGKILL
            target = process if kind == "run" else worker_of(process, rng)
            name = number.name
            if code is None and target is not None:
                os.kill(target, number)
                outcome.trials[name] += 1
                if kind == "run" and number != signal.SIGKILL and rng.random() < 0.3:
                    time.sleep(rng.uniform(0, 0.05))
                    os.kill(process, number)  # an impatient user
        code = place.wait(process) if code is None else code
        if kind == "disk" and code == 2:
            outcome.trials["limit"] += 1
        allowed = {"run": (-9, 75, 129, 130, 143), "worker": (2,), "disk": (2,)}[kind]
        text = place.log.read_text(errors="replace")
        expected_end = "benchmark: (interrupted|stopped by)" if kind == "run" else "benchmark: "
        problems = []
        if code not in (0, *allowed):
            problems.append(f"exit code {code}")
        if "Traceback" in text or "Exception ignored" in text:
            problems.append("traceback")
        if (code not in (0, -9) and text.count("benchmark: ") != 1) or (
            code not in (0, -9) and not re.search(expected_end, text)
        ):
            problems.append("not one line of explanation")
        if left := place.survivors():
            problems.append(f"{left} processes left")
        records |= {path: path.read_bytes() for path in work.glob("boards/records/*.json")}
        if code == 0:
            if results(work) != expected:
                problems.append("another result")
            if files := leftovers(work):
                problems.append(f"temporary files: {', '.join(files)}")
            outcome.acknowledged += len(records)
            outcome.lost += sum(not path.exists() for path in records)
            records.clear()
            shutil.rmtree(work)
        if problems:
            outcome.faults.append(f"{name}: {', '.join(problems)}\n{text}")
            shutil.rmtree(work, ignore_errors=True)
    return outcome


def worker_of(process: int, rng: random.Random) -> int | None:
    """Return a process that `process` has started, once there is one; None if it ends before."""
    with suppress(FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
        while Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
            if children := Path(f"/proc/{process}/task/{process}/children").read_text().split():
                return int(rng.choice(children))
            time.sleep(0.002)
    return None


def killed_writers(place: Workshop, trials: int, rng: random.Random) -> Outcome:
    """Kill processes that write records, and count the records that they had finished and that are missing."""
    outcome, folder = Outcome(), place.folder / "records"
    place.wait(place.start(place.folder / "straight", "run"))
    template = load_records(place.folder / "straight" / "boards" / "records")[0]
    acknowledged: set[str] = set()
    for trial in range(trials):
        reader, writer = os.pipe()
        if not (process := os.fork()):
            for number in range(10_000):
                key = hashlib.sha256(f"{trial} {number}".encode()).hexdigest()
                update = {"recipe_hash": key, "id": Record.make_id(key, template.role)}
                record = template.model_copy(update=update)
                os.write(writer, f"{add_record(record, folder).name}\n".encode())
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(writer)
        with os.fdopen(reader) as names:
            acknowledged |= set(names.read().split())
        outcome.trials["SIGKILL"] += 1
    add_record(template, folder)  # the next writer sweeps
    load_records(folder)  # raises an error if one is not complete
    outcome.acknowledged = len(acknowledged)
    outcome.lost = sum(not (folder / name).exists() for name in acknowledged)
    outcome.faults += [f"temporary file {name}" for name in leftovers(folder)]
    return outcome


def killed_suites(place: Workshop, trials: int, rng: random.Random) -> Outcome:
    """Kill suites of two concurrent runs, and check that nothing survives and that the last one ends with a summary."""
    outcome, work = Outcome(), place.folder / "suite"
    options = ("--methods", "none,kd", "--datasets", "glyphs", "--jobs", "2")
    for trial in range(trials + 1):
        process = place.start(work, "suite", *options)
        number, code = rng.choice(SIGNALS), None
        if trial < trials:
            code = place.wait(process, rng.uniform(1, 12))
        if trial < trials and code is None:
            os.kill(process, number)
            outcome.trials[number.name] += 1
        code = place.wait(process) if code is None else code
        text, left = place.log.read_text(errors="replace"), place.survivors()
        ended = "2 of 2 runs" in text or "0 failed" in text
        wrong = code not in (0, -9, 75, 129, 130, 143) or "Traceback" in text or left or (code == 0 and not ended)
        if wrong:
            outcome.faults.append(f"{number.name}: exit code {code}, {left} processes left\n{text}")
        if code == 0:
            outcome.acknowledged += len(load_records(work / "boards" / "records"))
            outcome.lost += 3 - len(load_records(work / "boards" / "records"))
            outcome.faults += [f"temporary file {name}" for name in leftovers(work)]
            shutil.rmtree(work)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["run", "worker", "disk", "records", "suite"], default="run")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, start = random.Random(arguments.seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-campaign-") as folder:
        place = Workshop(Path(folder))
        if arguments.kind == "records":
            outcome = killed_writers(place, arguments.trials, rng)
        elif arguments.kind == "suite":
            outcome = killed_suites(place, arguments.trials, rng)
        else:
            outcome = disturbed_run(place, arguments.trials, rng, arguments.kind)
    for fault in outcome.faults:
        print(fault, file=sys.stderr)
    summary = {
        "campaign": arguments.kind,
        "trials": outcome.trials.total(),
        **outcome.trials,
        "faults": len(outcome.faults),
        "records": outcome.acknowledged,
        "losses": outcome.lost,
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(summary))
    sys.exit(1 if outcome.faults or outcome.lost else 0)


if __name__ == "__main__":
    main()
