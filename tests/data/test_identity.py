"""The identity of a dataset: what changes it, and what does not."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data import identity
from benchmark.data.identity import require_unchanged
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.datasets.folder import Folder
from benchmark.errors import UserError

ROWS = [
    *(
        f"img/{name}{number}.png,{name},{'door' if number % 2 else 'hall'},train"
        for name in "ab"
        for number in range(2)
    ),
    *(
        f"img/{name}{number}.png,{name},{'door' if number else 'hall'},{split}"
        for name in "cd"
        for number, split in enumerate(("query", "gallery"))
    ),
]


def paint(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def mine(tmp_path) -> Path:
    """A table of eight images: two identities for training and two for testing, seen by two cameras."""
    table = tmp_path / "project" / "mine.csv"
    for number, row in enumerate(ROWS):
        paint(table.parent / row.split(",")[0], number)
    write(table, ROWS)
    return table


def write(table: Path, rows: list[str]) -> None:
    table.write_text("\n".join(["path,identity,camera,split", *rows]))


def opened(path: Path | str, **options) -> Folder:
    return Folder(Path(os.environ["ROOT"]), path=str(path), **options)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


def edit(*changes: tuple[str, str]):
    """Return a function that replaces parts of a table's text."""

    def change(table: Path) -> None:
        text = table.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        table.write_text(text)

    return change


def repaint(name: str):
    return lambda table: paint(table.parent / "img" / name, 99)


def add(table: Path) -> None:
    paint(table.parent / "img" / "e.png", 9)
    write(table, [*ROWS, "img/e.png,c,door,gallery"])


def copy(table: Path) -> None:
    shutil.copytree(table.parent, table.parents[1] / "copy")
    shutil.rmtree(table.parent)


@pytest.mark.parametrize(
    "change",
    [
        edit(("c1.png,c", "c1.png,d"), ("d1.png,d", "d1.png,c")),
        edit(("c1.png,c,door", "c1.png,c,hall")),
        edit(("c0.png,c,hall", "c0.png,c,door")),
        edit(("d1.png,d,door,gallery", "d1.png,d,door,query")),
        repaint("a0.png"),
        repaint("d1.png"),
        add,
    ],
    ids=["permuted labels", "camera", "camera of a query", "split", "training image", "gallery image", "new image"],
)
def test_other_images_or_labels_are_another_dataset(mine, change):
    before = opened(mine).fingerprint()
    change(mine)
    assert opened(mine).fingerprint() != before


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.rename(table.with_name("renamed.csv")),
        lambda table: (table.parent / "unused.png").write_bytes(b"not in the table"),
        lambda table: os.utime(table.parent / "img" / "a0.png", ns=(0, 0)),
        lambda table: write(table, ROWS[::-1]),
        edit(("img/", "./img/")),
        lambda table: write(table, [f"{table.parent}/{row}" for row in ROWS]),
        edit(("door", "entrance")),
        copy,
        lambda table: table.parent.rename(table.parents[1] / "moved"),
    ],
    ids=["renamed", "unused file", "time", "order", "dots", "absolute", "names of cameras", "copied", "moved"],
)
def test_the_same_images_and_labels_are_the_same_dataset(mine, change, tmp_path):
    before = opened(mine).identity
    change(mine)
    (table,) = tmp_path.glob("*/*.csv")
    after = opened(table).identity
    assert (after.content, after.training) == (before.content, before.training)


def test_test_images_do_not_change_the_identity_of_the_training_images(mine):
    before = opened(mine).identity
    paint(mine.parent / "img" / "c0.png", 99)
    after = opened(mine).identity
    assert after.content != before.content and after.training == before.training
    paint(mine.parent / "img" / "a0.png", 99)
    assert opened(mine).identity.training != before.training


def test_differences_are_named(mine, root):
    before = opened(mine).fingerprint()
    paint(mine.parent / "img" / "a0.png", 99)
    paint(mine.parent / "img" / "new.png", 9)
    edit(("c1.png,c,door", "c1.png,c,hall"), ("b0.png,b", "new.png,b"))(mine)
    assert opened(mine).identity.differences(before, root) == (
        "1 image changed: a0.png; 1 image vanished: b0.png; 1 image appeared: new.png; "
        "1 image with another split, identity or camera: c1.png"
    )
    assert opened(mine).identity.differences("0" * 64, root) == ""
    assert opened(mine).identity.differences("../etc", root) == ""


def test_only_a_few_names_are_shown(mine, root):
    before = opened(mine).fingerprint()
    for row in ROWS:
        paint(mine.parent / row.split(",")[0], 99)
    text = opened(mine).identity.differences(before, root)
    assert text == "8 images changed: a0.png, a1.png, b0.png and 5 more"


def test_a_damaged_list_of_images_gives_no_names(mine, root, monkeypatch):
    before = opened(mine).fingerprint()
    (file,) = root.glob(".identity/lists/*.gz")
    paint(mine.parent / "img" / "a0.png", 99)
    for content in (b"", b"junk", file.read_bytes()[:40]):
        file.write_bytes(content)
        assert opened(mine).identity.differences(before, root) == ""


def test_changes_during_a_run_stop_it(mine):
    dataset = opened(mine)
    dataset.fingerprint()
    os.utime(mine.parent / "img" / "a0.png", ns=(0, 0))
    require_unchanged(dataset)
    paint(mine.parent / "img" / "a0.png", 99)
    with pytest.raises(UserError, match=r"changed during the run: 1 image changed: a0.png\. Restore"):
        require_unchanged(dataset)
    (mine.parent / "img" / "a0.png").unlink()
    with pytest.raises(UserError, match=r"a0\.png does not exist"):
        require_unchanged(dataset)


def test_an_image_that_cannot_be_decoded_has_an_identity(mine):
    (mine.parent / "img" / "a0.png").write_bytes(b"not an image")
    assert isinstance(opened(mine), RetrievalDataset) and len(opened(mine).fingerprint()) == 64
    assert identity.FORMAT == 1
