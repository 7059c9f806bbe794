"""`benchmark evaluate`."""

import json
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

from benchmark.errors import UserError, nearest
from benchmark.experiment.environment import choose_device
from benchmark.experiment.finished import FinishedRun
from benchmark.model.layers import FlipTTA
from benchmark.recipe import compose
from benchmark.registry import DATASETS, METHODS
from benchmark.retrieval import Embeddings, Protocol, Scores, evaluate
from benchmark.utils.atomic import write_text
from benchmark.utils.distributed import process_group

GALLERIES = ("student", "teacher")


def evaluate_file(
    file: Path, dataset: str, settings: Sequence[str], root: Path, device: str, output: Path | None
) -> None:
    """Judge the embeddings in a .npz file by a dataset's protocol, and print the scores.

    The arrays are `query`, `query_ids`, `query_cams`, `gallery`, `gallery_ids`, `gallery_cams` and, where tracks are
    ranked, `gallery_tracks`; of a protocol in which query and gallery are one list, the first two.

    Raises:
        UserError: The file cannot be read, or its arrays do not fit each other or the protocol.
    """
    recipe = compose("none", dataset, None, settings)
    found = DATASETS.find(dataset)(root, **recipe.dataset.arguments)
    protocol = recipe.evaluate.judged_by(found.protocol)
    chosen = choose_device(device)
    try:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise UserError(f"--embeddings {file} holds one array: write several into a .npz file with numpy.savez")
        with arrays:
            known = dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise UserError(f"--embeddings {file} is not a readable .npz file: {error}") from error
    unused = sorted(name for name in known if name.startswith("gallery")) if protocol.query_in_gallery else []
    if unused:
        raise UserError(
            f"{file} holds {unused[0]!r}, but by the protocol of {dataset} query and gallery are one list: leave out "
            "the gallery"
        )
    try:
        query = _list(known, "query", protocol, chosen)
        gallery = None if protocol.query_in_gallery else _list(known, "gallery", protocol, chosen)
        scores = evaluate(query, gallery, protocol)
    except (ValueError, UserError) as error:
        raise UserError(f"{file}: {error}") from error
    _report(scores, protocol, f"{file.name} by the protocol of {dataset}", output)


def evaluate_run(
    run: Path,
    dataset: str | None,
    gallery: str,
    flip: bool,
    settings: Sequence[str],
    root: Path,
    device: str,
    output: Path | None,
) -> None:
    """Judge a run's student on its own dataset or another one, and print the scores.

    Started by `torchrun`, every process embeds its part of the images and searches the gallery for its queries.

    Raises:
        UserError: There is no such run, dataset or gallery, or they do not fit each other.
    """
    if gallery not in GALLERIES:
        raise UserError(f"--gallery {gallery}: choose student or teacher{nearest(gallery, GALLERIES)}")
    finished = FinishedRun(run, root)
    chosen = choose_device(device)
    test = finished.test_set(dataset, settings, chosen)
    student = finished.student(chosen)
    searched = student if gallery == "student" else finished.teacher(chosen)
    if searched.dim != student.dim:
        raise UserError(
            f"--gallery teacher: embeddings differ in size, {student.dim} of the student and {searched.dim} of the "
            "teacher, so that they cannot be compared"
        )
    networks = [FlipTTA(network) if flip else network for network in (student, searched)]
    with process_group(chosen) as is_main_process:
        queries = test.embed(networks[0], "query")
        same = test.protocol.query_in_gallery and gallery == "student"
        scores = test.score(queries, queries if same else test.embed(networks[1], "gallery"))
    if not is_main_process:
        return
    facts = [f"{run}", f"on {test.dataset.name}"]
    facts += ["searching the teacher's gallery"] if gallery == "teacher" else []
    facts += ["with mirrored images"] if flip else []
    _report(scores, test.protocol, " ".join(facts), output)
    method = METHODS.find(finished.recipe.method.name)(**finished.recipe.method.arguments)
    if gallery == "teacher" and not method.aligned:
        typer.echo(
            f"{finished.recipe.method.name} leaves the student's embeddings apart from the teacher's: these scores say "
            "nothing about either"
        )


def _list(arrays: dict[str, Any], name: str, protocol: Protocol, device: torch.device) -> Embeddings:
    """The query or gallery list in a file's arrays."""
    needed = [name, f"{name}_ids"]
    needed += [f"{name}_cams"] if protocol.camera_rule else []
    needed += [f"{name}_tracks"] if protocol.tracks and name == "gallery" else []
    missing = [key for key in needed if key not in arrays]
    if missing:
        guess = nearest(missing[0], list(arrays))
        raise UserError(f"there is no array {missing[0]!r}{guess} The file has: {', '.join(arrays)}.")
    cameras, tracks = (arrays.get(f"{name}_{label}") for label in ("cams", "tracks"))
    try:
        return Embeddings(arrays[name], arrays[f"{name}_ids"], cameras, tracks).to(device)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _listed(values: Any) -> Any:
    """What JSON can hold: null for NaN."""
    if isinstance(values, list):
        return [_listed(value) for value in values]
    return None if values != values else values


def _report(scores: Scores, protocol: Protocol, title: str, output: Path | None) -> None:
    """Print the scores, and write them with those of every query where a file is named."""
    means = {
        "mAP": scores.mAP,
        **{f"R@{k}": value for k, value in scores.recall.items()},
        "mINP": scores.mINP,
        "MAP@R": scores.mAP_at_R,
        "R-precision": scores.R_precision,
        **{f"P@{k}": value for k, value in scores.precision.items()},
    }
    table = Table(title=title, box=HORIZONTALS, show_header=False)
    table.add_column("metric")
    table.add_column("percent", justify="right")
    for name, value in means.items():
        table.add_row(name, f"{100 * value:.2f}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    skipped = f", {scores.skipped:,} of them without a correct answer and not counted" if scores.skipped else ""
    console.print(f"{scores.queries:,} queries{skipped}; scores in percent")
    if output is not None:
        content = {
            "scores": means,
            "queries": scores.queries,
            "skipped": scores.skipped,
            "protocol": asdict(protocol),
            "per_query": {name: _listed(getattr(scores, name).tolist()) for name in scores.per_query()},
        }
        write_text(output, json.dumps(content, indent=1) + "\n")
        console.print(f"scores of every query: {output}")
