"""The results of a search as a self-contained web page; the HTML and CSS are in `assets`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.data.decode import Color
from benchmark.deployment.index import Hit
from benchmark.inspection.html import thumbnails
from benchmark.plots.web import render
from benchmark.utils.escape import terminal


def search_page(
    results: Mapping[Path, Sequence[Hit]], *, folder: Path, facts: Mapping[str, str], background: Color
) -> str:
    """Render the results as one HTML page that loads no other file. Every image is embedded once.

    Args:
        results: The images that were found, by the image that was searched for.
        folder: The folder of the images, relative to which they are named.
        facts: Further information by name.
        background: What shows through transparent pixels.
    """
    paths = [*results, *(hit.path for hits in results.values() for hit in hits)]
    return render(
        "benchmark.deployment",
        "search.html.j2",
        title=f"Images similar to {terminal(next(iter(results)).name)}" if len(results) == 1 else "Similar images",
        results=results,
        facts={name: terminal(value) for name, value in facts.items()},
        thumbnails=thumbnails(paths, background),
        name=lambda path: terminal(str(path.relative_to(folder) if path.is_relative_to(folder) else path)),
    )
