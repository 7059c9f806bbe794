"""The inspection as a self-contained web page; the HTML and CSS are in `assets`."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from benchmark.data.decode import BrokenImage, Color, decode
from benchmark.inspection.embedding_map import EmbeddingMap
from benchmark.inspection.inspect import BINS, InspectedQuery, Inspection
from benchmark.inspection.saliency import Saliency
from benchmark.plots.style import ACCENT, NEUTRAL, PALETTE
from benchmark.plots.web import render


class Mark(NamedTuple):
    """How entries of one kind are marked: by a color, and by a sign for readers who cannot distinguish the colors."""

    name: str
    """Name of the CSS class."""
    meaning: str
    color: str
    sign: str


MARKS = {
    1: Mark("correct", "correct match", PALETTE[1], "\u2713"),
    0: Mark("wrong", "wrong match", PALETTE[3], "\u2717"),
    -1: Mark("ignored", "ignored by the protocol", NEUTRAL, "\u2013"),
}
"""Marks by the relevance of an entry."""


class LabelNames(Protocol):
    """How a dataset is displayed: names, and the background of images. Every `RetrievalDataset` implements it."""

    @property
    def background_color(self) -> Color: ...

    def identity_name(self, identity: int) -> str: ...

    def camera_name(self, camera: int) -> str: ...


class _Section(NamedTuple):
    anchor: str
    title: str
    description: str
    queries: Sequence[InspectedQuery]


def inspection_page(
    inspection: Inspection,
    *,
    title: str,
    facts: Mapping[str, str],
    names: LabelNames,
    embedding_map: EmbeddingMap | None = None,
    saliencies: Mapping[tuple[Path, Path], Saliency] | None = None,
) -> str:
    """Render the inspection as one HTML page that loads no other file. Every image is embedded once.

    Args:
        inspection: The selected queries and the statistics.
        title: Title of the page, such as "kd on glyphs".
        facts: Further information about the run by name, such as its seed and folder.
        names: Display names of identities and cameras.
        embedding_map: A map of the student's embeddings, if it is to be shown.
        saliencies: Saliency by the paths of a query and of a gallery image in its ranked list by the student.
    """
    sections = [_Section("worst", f"Worst queries ({len(inspection.worst)})", "Lowest AP first.", inspection.worst)]
    networks = {"network": inspection.student}
    if inspection.teacher is not None and inspection.comparison is not None:
        networks = {"student": inspection.student, "teacher": inspection.teacher}
        heading = (
            f"Largest AP drops from teacher to student ({len(inspection.drops)} of {inspection.comparison.lower:,})"
        )
        description = "Largest drop first." if inspection.drops else "The student's AP is lower on no query."
        sections.append(_Section("drops", heading, description, inspection.drops))
    return render(
        "benchmark.inspection",
        "inspection.html.j2",
        title=title,
        facts=facts,
        inspection=inspection,
        networks=networks,
        bins=BINS,
        network_colors=(PALETTE[0], ACCENT),
        marks=MARKS,
        sections=sections,
        thumbnails=thumbnails(_shown_paths(inspection), names.background_color),
        names=names,
        embedding_map=embedding_map,
        palette=PALETTE,
        overlays=_overlays(saliencies or {}, names.background_color),
    )


class Thumbnail(NamedTuple):
    """An image as the background of a CSS class, so that any number of elements can show it."""

    css_class: str
    jpeg: str
    """Base64 of the file; empty for a broken image."""


class _Overlay(NamedTuple):
    """Two images under their saliency, as base64 of JPEGs."""

    query: str
    match: str


def _overlays(saliencies: Mapping[tuple[Path, Path], Saliency], background: Color) -> dict[tuple[Path, Path], _Overlay]:
    """Return the pairs of images that can be decoded. Colors of a pair have the same scale."""
    overlays = {}
    for paths, maps in saliencies.items():
        images = [thumbnail(path, background) for path in paths]
        highest = max(float(values.max()) for values in maps)
        drawn = [_jpeg(_under(image, values, highest)) for image, values in zip(images, maps, strict=True) if image]
        if len(drawn) == len(paths):
            overlays[paths] = _Overlay(*drawn)
    return overlays


def _under(image: Image.Image, values: Tensor, highest: float) -> Image.Image:
    """Return an image, scaled up to `SIDE`, of which the parts with low values are dark."""
    image = ImageOps.contain(image, (SIDE, SIDE))
    share = (values / highest).clamp(0, 1) if highest > 0 else torch.zeros_like(values)
    light = Image.fromarray((share * 255).byte().cpu().numpy()).resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(image, ImageEnhance.Brightness(image).enhance(_DIMMED), light)


def _jpeg(image: Image.Image) -> str:
    """Return an image as base64 of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _shown_paths(inspection: Inspection) -> list[Path]:
    """Return the paths of all images on the page."""
    queries = (*inspection.worst, *inspection.drops)
    lists = [ranked for query in queries for ranked in (query.student, query.teacher) if ranked is not None]
    samples = [query.sample for query in queries] + [entry.sample for ranked in lists for entry in ranked.entries]
    return [sample.path for sample in samples]


def thumbnails(paths: Iterable[Path], background: Color) -> dict[Path, Thumbnail]:
    """Return the thumbnails of images, by path."""
    made: dict[Path, Thumbnail] = {}
    for path in dict.fromkeys(paths):
        image = thumbnail(path, background)
        if image is None:
            made[path] = Thumbnail("broken", "")
            continue
        made[path] = Thumbnail(f"i{len(made)}", _jpeg(image))
    return made


SIDE = 96
"""Maximum side length of a thumbnail in pixels."""
_DIMMED = 0.25
"""Brightness of parts that do not contribute to a similarity."""


def thumbnail(path: Path, background: Color) -> Image.Image | None:
    """Return the image scaled down to fit into `SIDE` x `SIDE` pixels, aspect ratio kept; None for a broken image."""
    try:
        image = Image.fromarray(decode(path, (SIDE, SIDE), background).permute(1, 2, 0).numpy())
    except BrokenImage:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image
