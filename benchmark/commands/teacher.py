"""The commands `benchmark teacher list`, `publish` and `add`."""

from pathlib import Path

from tabulate import tabulate

from benchmark.errors import UserError
from benchmark.experiment import published
from benchmark.utils.console import echo
from benchmark.utils.escape import terminal
from benchmark.utils.writable import require_output

HUB = "hf-hub:"
"""Beginning of the name of a repository of the Hugging Face Hub."""
ARCHIVE = "teacher.zip"
"""Name of the archive in a repository of the Hub."""


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


def _download(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    name, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(name, ARCHIVE, revision=revision or None))
    except Exception as error:  # its errors have several base classes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{HUB}{repository}: {ARCHIVE} could not be downloaded: {reason}") from error
