"""The commands `benchmark embed` and `benchmark search`."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from benchmark.deployment.index import ImageIndex, build_index, require_index_kind
from benchmark.deployment.search_page import search_page
from benchmark.deployment.store import EmbeddingStore, Update
from benchmark.deployment.student import load_student
from benchmark.errors import UserError
from benchmark.experiment.environment import choose_device
from benchmark.utils.atomic import write_text
from benchmark.utils.console import echo, notify
from benchmark.utils.escape import terminal
from benchmark.utils.writable import require_output, require_writable


def embed(
    folder: Path, student: str, output: Path, *, index: str, batch_size: int, skip_broken: bool, device: str
) -> None:
    """Embed the images of a folder, and write the embeddings to a .npz file or an index.

    Embeddings are kept in the folder of the index, or for `NAME.npz` in `NAME.parts`, so that a repetition embeds only
    what is new or has changed.

    Args:
        folder: The images.
        student: What `load_student` takes.
        output: The .npz file, or the folder of the index.
        index: Kind of index.
        batch_size: Number of images embedded at a time.
        skip_broken: Whether to leave out images that cannot be decoded.
        device: See `choose_device`.

    Raises:
        UserError: There is no student, no image or no such index, or `output` has other content.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder: give a folder of images")
    is_file = output.suffix == ".npz"
    if is_file:
        require_output(output)
    else:
        require_writable(output, "--output")
        require_index_kind(index)
    loaded = load_student(student, choose_device(device))
    store = EmbeddingStore.open(output.with_suffix(".parts") if is_file else output, folder, loaded)
    update = store.update(loaded, batch_size=batch_size, skip_broken=skip_broken)
    _report(update)
    if not len(store):
        raise UserError(f"{folder}: none of the images can be decoded: give a folder of images")
    if is_file:
        store.write_npz(output)
    else:
        build_index(store, index)
    echo(output)


def search(images: Sequence[Path], index: Path, *, count: int, output: Path, device: str) -> None:
    """Write a page of the images of an index that are most similar to given ones, and print their names.

    Args:
        images: The images to search for.
        index: The folder that `embed` has written.
        count: Number of images to find for each.
        output: The page.
        device: See `choose_device`.

    Raises:
        UserError: There is no index, or an image cannot be read.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {output}: the name of the page must end in .html")
    require_output(output)
    store = EmbeddingStore(index)
    searched = ImageIndex(store)
    student = store.student(choose_device(device))
    for image in images:
        if image.is_dir():
            raise UserError(f"{image}: a folder, not an image: give one or more images")
    results = dict(zip(images, searched.search(student.embed(images), count), strict=True))
    facts = {"Index": str(index), "Images": f"{len(store):,} in {store.folder}"}
    if student.record is not None:
        facts["Student"] = f"{student.record.method} on {student.record.board}"
    background = student.transform.background
    write_text(output, search_page(results, folder=store.folder, facts=facts, background=background))
    for image, hits in results.items():
        rows = [(f"{hit.similarity:.3f}", terminal(str(hit.path))) for hit in hits]
        echo(f"{terminal(str(image))}\n{tabulate(rows, tablefmt='plain', disable_numparse=True)}")
    echo(output)


def _report(update: Update) -> None:
    parts = [f"{update.embedded:,} images embedded", f"{update.kept:,} unchanged", f"{update.removed:,} removed"]
    notify(", ".join(parts))
    if update.broken:
        notify(f"{len(update.broken):,} images left out because they are broken, such as {update.broken[0]}")
