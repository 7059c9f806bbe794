"""The commands `benchmark data check`, `prepare` and `sample`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from benchmark.data import check as checks
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS
from benchmark.errors import UserError, nearest
from benchmark.recipe.compose import parse_setting
from benchmark.recipe.validate import validate_arguments
from benchmark.registry import DATASETS
from benchmark.utils.console import echo, notify
from benchmark.utils.writable import require_output


def check(name: str, settings: Sequence[str], root: Path, *, decode: bool) -> None:
    """Print how a dataset on disk compares with its card, and exit with code 1 if it has defects.

    Args:
        name: Name of the dataset.
        settings: Options of the dataset, each as "option=value".
        root: The data root.
        decode: Whether to decode every image to find broken ones.

    Raises:
        UserError: The dataset is missing, or an option is invalid.
    """
    dataset = _dataset(name, settings, root)
    dataset.prepare()
    report = checks.check(dataset, decode)
    echo(report)
    if not report.ok:
        raise typer.Exit(1)


def prepare(name: str, archives: Sequence[Path], settings: Sequence[str], root: Path, *, download: bool) -> None:
    """Unpack a dataset's archive into the data root, or render the dataset, then check it.

    Args:
        name: Name of the dataset.
        archives: The archive, or the packages of a dataset that consists of several; none with `download`, or for a
            dataset that the suite renders.
        settings: Options of the dataset, each as "option=value".
        root: The data root.
        download: Whether to download the archive first.

    Packages that are unpacked already are left out, so that the command can be repeated.

    Raises:
        UserError: An archive is missing, damaged, unsafe or of another dataset, or would overwrite files. No file of
            this archive is unpacked then.
    """
    from benchmark.data.unpack import fetch, find_package, unpack

    dataset = _dataset(name, settings, root)
    if download:
        if archives:
            raise UserError(f"{archives[0]}: name either an archive or --download, not both")
        archives = [fetch(dataset, root)]
    is_rendered = type(dataset).prepare is not RetrievalDataset.prepare
    card = dataset.card
    if not archives and not is_rendered:
        alternative = " or --download" if card.download else ""
        raise UserError(f"data prepare {name}: name the archive{alternative}. {card.obtain}")
    if archives and is_rendered:
        raise UserError(f"{archives[0]}: {name} has no archive. {card.obtain}")
    if len(archives) > 1 and not card.packages:
        raise UserError(f"{archives[1]}: {name} has a single archive; name one file")
    if card.packages:
        packages = {find_package(card, archive): archive for archive in archives}
        for package, archive in packages.items():
            if (root / name / package.folder).is_dir():
                notify(f"{archive.name}: {root / name / package.folder} exists already")
            else:
                unpack(archive, root / name / package.folder)
    elif archives:
        unpack(archives[0], root / name, dataset.required_paths)
    check(name, settings, root, decode=False)


def sample(name: str, settings: Sequence[str], root: Path, *, split: str, rows: int, output: Path | None) -> None:
    """Write a contact sheet of a dataset and print its path.

    Args:
        name: Name of the dataset.
        settings: Options of the dataset, each as "option=value".
        root: The data root.
        split: "train", "query" or "gallery".
        rows: Number of identities.
        output: Image file to write; `<dataset>-<split>.png` in the current folder if None.

    Raises:
        UserError: The dataset is missing or has a defect, or an option is invalid.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{nearest(split, SPLITS)} Choose train, query or gallery.")
    target = output or Path(f"{name}-{split}.png")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output {target}: the file name must end in .png or .jpg")
    require_output(target)
    from benchmark.data.contact_sheet import contact_sheet  # imports torch

    dataset = _dataset(name, settings, root)
    dataset.prepare()
    contact_sheet(dataset, split, rows, target)
    echo(target)


def _dataset(name: str, settings: Sequence[str], root: Path) -> RetrievalDataset:
    """Create the dataset with options given as "option=value" or, as in a recipe, "dataset.option=value"."""
    dataset_class = DATASETS.find(name)
    options: dict[str, Any] = {}
    for setting in settings:
        parsed = parse_setting(setting)
        options |= parsed["dataset"] if isinstance(parsed.get("dataset"), dict) else parsed
    return dataset_class(root, **validate_arguments(DATASETS, name, options, "--set"))
