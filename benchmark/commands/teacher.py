"""The commands `benchmark teacher list`, `publish` and `add`."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

from benchmark.data.digests import hash_file
from benchmark.errors import UserError
from benchmark.experiment import published
from benchmark.utils.console import echo
from benchmark.utils.escape import terminal
from benchmark.utils.writable import require_output

HUB = "hf-hub:"
"""Beginning of the name of a repository of the Hugging Face Hub."""
ARCHIVE = "teacher.zip"
"""Name of the archive in a repository of the Hub."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a teacher is evaluated."""

    data_root: Path
    work_dir: Path
    device: str


def list_teachers() -> None:
    """Print the published teachers on this machine."""
    rows = [
        (terminal(record.dataset), terminal(record.network.name), f"{100 * record.scores.symmetric.mAP:.1f}", name)
        for name, record in published.published_teachers()
    ]
    echo(tabulate(rows, ["dataset", "network", "mAP", "name"], disable_numparse=True))


def publish(run: Path, output: Path) -> None:
    """Write the network of a finished run to an archive, and print its name."""
    require_output(output)
    name = published.publish(run, output)
    echo(f"{output}\nAdd it with: benchmark teacher add {output}\nUse it with: --teacher {name}")


def add(source: str, expected: str | None) -> None:
    """Add a published teacher from an archive, or from a repository of the Hub, and print its name."""
    archive = _download(source.removeprefix(HUB)) if source.startswith(HUB) else Path(source)
    if not archive.is_file():
        raise UserError(f"{source}: not a file: give an archive of `benchmark teacher publish`, or {HUB}OWNER/NAME")
    echo(f"Use it with: --teacher {published.add(archive, expected)}")


def convert(path: Path, project: str, dataset: str, settings: Sequence[str], places: Places) -> None:
    """Evaluate the network of another project on a dataset, add it as a published teacher, and print its name.

    Args:
        path: The project's file.
        project: Name of the project; see `benchmark.model.origins`.
        dataset: Name of the dataset.
        settings: Changes of the recipe, each `key=value`.
        places: Folders and device.
    """
    from benchmark.experiment.environment import choose_device
    from benchmark.experiment.experiment import Experiment
    from benchmark.model.origins import convert as convert_file
    from benchmark.model.serialize import write
    from benchmark.recipe import compose

    converted = convert_file(path, project)
    file = places.work_dir / "converted" / f"{project}-{hash_file(path)[:16]}.pth"
    write(converted.weights, file)
    network = {**converted.network, "weights": str(file)}
    layer = {"teacher": {"frozen": True, "network": network}, "student": {"like": "teacher", "weights": "random"}}
    recipe = compose("none", dataset, layer, settings)
    if converted.remark:
        echo(f"note: in networks of {project}, {converted.remark}: scores may differ from the published ones")
    device = choose_device(places.device)
    experiment = Experiment(recipe, work_dir=places.work_dir, data_root=places.data_root, device=device, resume=True)
    record = experiment.run_teacher()
    with TemporaryDirectory() as folder:
        archive = Path(folder) / ARCHIVE
        published.publish(experiment.teacher_folder.path, archive)
        name = published.add(archive)
    used = recipe.teacher.network
    changes = {key: value for key, value in used if key in {*network, "args", "stem", "head"} - {"weights"}}
    settings = [shlex.quote(f"teacher.network.{key}={json.dumps(value)}") for key, value in changes.items()]
    options = " ".join(f"--set {setting}" for setting in settings)
    echo(f"mAP {100 * record.scores.symmetric.mAP:.1f} on {dataset}\nUse it with: --teacher {name} {options}")


def _download(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    name, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(name, ARCHIVE, revision=revision or None))
    except Exception as error:  # its errors have several base classes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{HUB}{repository}: {ARCHIVE} could not be downloaded: {reason}") from error
