"""Time and peak memory of the leaderboards with many records.

    python tools/many_records.py --records 10000 --shape boards

Makes up records by varying those of the archive, so that every check passes, and then runs `benchmark leaderboard` and
`benchmark leaderboard --check` on them, each in a process of its own.

Shapes: `boards` (a leaderboard for every 94 records), `rows` (one leaderboard, with a recipe for every 3 seeds) and
`seeds` (one leaderboard with the archive's rows, and ever more seeds). `hostile` adds mistakes to the records instead,
one kind after the other, and runs the check alone.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmark.recipe import replay
from benchmark.results.record import Record
from benchmark.results.store import add_record, load_records
from benchmark.utils.recipe_hash import recipe_hash

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = ROOT / "leaderboards" / "archive"
Content = dict[str, Any]


def vary(content: Content, copy: int, shape: str) -> Record:
    """Return a record like one of the archive, for the copy with this number; copy 0 is the record itself.

    The scores per query change places, so that nothing is computed twice, and all other scores stay possible.
    """
    recipe = content["recipe"]
    if shape == "boards" and copy:
        identities = 500 - copy
        recipe["dataset"]["test_identities"] = identities
        content["variant"] = {"dataset.test_identities": identities}
    elif shape == "rows":
        recipe["train"]["optimizer"]["weight_decay"] *= 1 + copy / 1000  # another teacher would be another leaderboard
    else:
        recipe["seed"] += 3 * copy
        content["seed"] = recipe["seed"]
    content["recipe_hash"] = recipe_hash(recipe)
    content["id"] = Record.make_id(content["recipe_hash"], content["role"])
    if content["teacher"] is not None:
        teacher = replay(recipe, "the recipe").for_teacher()
        content["teacher"]["record"] = Record.make_id(teacher.hash, "teacher")
    random.Random(copy).shuffle(content["scores"]["average_precision"])
    return Record.model_validate(content)


def write(folder: Path, count: int, shape: str) -> None:
    """Write the records and what else the pages show into `folder`."""
    shutil.copytree(ARCHIVE / "steps", folder / "steps")
    texts = [record.model_dump_json() for record in load_records(ARCHIVE / "records")]
    for number in range(count):
        content = json.loads(texts[number % len(texts)])
        add_record(vary(content, number // len(texts), shape), folder / "records")


def mistakes() -> list[Content]:
    """Return the fields that make a record hostile, each in another way."""
    script = "<script>alert(1)</script>\n\n# INJECTED [x](javascript:alert(1))\x1b[31m"
    single: Content = {
        "environment.device": script,
        "network.cost.device": "=HYPERLINK(0)\n",
        "network.cost.macs": 10**400,
        "recipe.image_size": [60_000, 60_000],
        "recipe.student.args": {"channels": [10**6] * 4},
        "recipe.student.dim": 10**9,
        "created": "9999-99-99T00:00:00Z",
        "dataset": "README",
        "network.cost.latency_ms": {"1": 1e308},
        "scores.average_precision": [0.5] * 400_000,
        "recipe.teacher.network.backbone": "vit_giant_patch14_clip_224",
    }
    crd = {"name": "crd", "dim": 10**12, "negatives": 10**12}
    return [*({key: value} for key, value in single.items()), {"method": "crd", "recipe.method": crd}]


def put(content: Content, key: str, value: Any) -> None:
    """Set the value at a dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        content = content[parent]
    content[last] = value


def write_hostile(folder: Path, count: int) -> None:
    """Write records that are wrong in different ways, with ids that belong to their recipes."""
    texts = [record.model_dump_json() for record in load_records(ARCHIVE / "records") if record.teacher is not None]
    kinds = mistakes()
    (folder / "records").mkdir()
    for number in range(count):
        content = json.loads(texts[number % len(texts)])
        content["seed"] = content["recipe"]["seed"] = number
        for key, value in kinds[number % len(kinds)].items():
            put(content, key, value)
        content["recipe_hash"] = recipe_hash(content["recipe"])
        content["id"] = Record.make_id(content["recipe_hash"], content["role"])
        name = f"glyphs-{content['method']}-seed{number}-{content['id']}.json"
        (folder / "records" / name).write_text(json.dumps(content))


MEASURE = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
result = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds, busy = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(json.dumps([result.returncode, seconds, busy, usage.ru_maxrss / 1024, result.stdout.splitlines()[-3:]]))
"""
"""A program that measures a command. A process starts with the peak memory of its parent, so the parent is small."""


def measure(*arguments: str) -> None:
    """Run a command of the suite; print its times, the peak memory of its largest process, and its last lines."""
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "benchmark", "leaderboard", *arguments]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    code, seconds, busy, megabytes, lines = json.loads(output)
    name = " ".join(arguments[2:]) or "pages"
    print(f"{name:8} exit code {code}, {seconds:.1f} s ({busy:.1f} s of CPU), {megabytes:.0f} MB", flush=True)
    for line in lines if code else ():
        print(f"  {line[:160]}")


def main() -> None:
    """Parse the command line, and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000, help="number of records")
    parser.add_argument("--shape", choices=("boards", "rows", "seeds", "hostile"), default="boards")
    parser.add_argument("--folder", type=Path, help="where to make the records; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "records").exists():
            folder.mkdir(parents=True, exist_ok=True)
            if options.shape == "hostile":
                write_hostile(folder, options.records)
            else:
                write(folder, options.records, options.shape)
        print(f"{len(list((folder / 'records').glob('*.json')))} records, shape {options.shape}")
        if options.shape != "hostile":
            measure("--folder", str(folder))
        measure("--folder", str(folder), "--check")


if __name__ == "__main__":
    main()
