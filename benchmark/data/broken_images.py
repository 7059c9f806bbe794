"""Opening every image of a set."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmark.data.decode import BrokenImage, decode
from benchmark.data.parallel import parallel


def broken_images(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode all files, several at a time and with a progress bar; those that cannot be, each with the reason."""
    problems = track(parallel(_problem, paths), "decoding", total=len(paths), console=Console(stderr=True))
    return {path: problem for path, problem in zip(paths, problems, strict=True) if problem is not None}


def _problem(path: Path) -> str | None:
    try:
        decode(path)
    except BrokenImage as error:
        return str(error)
    return None
