"""`benchmark data`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from benchmark.data.check import check as compare
from benchmark.data.contact_sheet import contact_sheet
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset
from benchmark.data.unpack import fetch, unpack
from benchmark.errors import UserError, nearest
from benchmark.recipe.compose import parse_setting
from benchmark.recipe.validate import arguments
from benchmark.registry import DATASETS


def check(name: str, settings: Sequence[str], root: Path, decode: bool) -> None:
    """Print how the set compares with what is published; exit with 1 where it does not.

    Raises:
        UserError: The set is not there, or an option is wrong.
    """
    dataset = _dataset(name, settings, root)
    dataset.prepare()
    report = compare(dataset, decode)
    typer.echo(report)
    if not report.ok:
        raise typer.Exit(1)


def sample(name: str, settings: Sequence[str], root: Path, split: str, rows: int, output: Path | None) -> None:
    """Draw a contact sheet.

    Raises:
        UserError: The set is not there or not usable, or an option is wrong.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{nearest(split, SPLITS)} Choose train, query or gallery.")
    target = output or Path(f"{name}-{split}.png")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output {target}: a picture's name ends in .png or .jpg")
    dataset = _dataset(name, settings, root)
    dataset.prepare()
    contact_sheet(dataset, split, rows, target)
    typer.echo(target)


def prepare(name: str, archive: Path | None, settings: Sequence[str], root: Path, download: bool) -> None:
    """Unpack an archive into the data root, or render the set where this suite makes it, and check what came of it.

    Raises:
        UserError: The archive is missing, damaged or unsafe, or would overwrite something; nothing has changed then.
    """
    dataset = _dataset(name, settings, root)
    if download:
        if archive is not None:
            raise UserError("--download fetches the archive: do not name one beside it")
        archive = fetch(dataset, root)
    comes_in_an_archive = type(dataset).prepare is RetrievalDataset.prepare
    if archive is None and comes_in_an_archive:
        how = " or --download" if dataset.card.download else ""
        raise UserError(f"which archive? Give its file{how}. {dataset.card.obtain}")
    if archive is not None and not comes_in_an_archive:
        raise UserError(f"{name} comes in no archive. {dataset.card.obtain}")
    if archive is not None:
        unpack(archive, root / name, dataset.parts)
    check(name, settings, root, decode=False)


def _dataset(name: str, settings: Sequence[str], root: Path) -> RetrievalDataset:
    """The dataset under `option=value` settings."""
    found = DATASETS.find(name)
    given: dict[str, Any] = {}
    for setting in settings:
        parsed = parse_setting(setting)
        given |= parsed["dataset"] if isinstance(parsed.get("dataset"), dict) else parsed  # as in a recipe, or short
    return found(root, **arguments(DATASETS, name, given, "--set"))
