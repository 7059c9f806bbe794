"""The base class of datasets, its check and its picture."""

import numpy as np
import pytest
from PIL import Image

from benchmark.data.card import Card, Split
from benchmark.data.check import check
from benchmark.data.contact_sheet import contact_sheet
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Sample
from benchmark.errors import UserError


class Tiny(RetrievalDataset):
    """Two training and two test identities under two cameras."""

    name = "tiny"
    card = Card(
        title="Tiny",
        citation="",
        terms="",
        obtain="Ask the author.",
        tree="tiny/{train,query,gallery}/<identity>_<camera>.png",
        splits={"train": Split(4, 2, 2), "query": Split(2, 2), "gallery": Split(2, 2, 1)},
    )

    def scan(self, split):
        return [Sample(path, *map(int, path.stem.split("_"))) for path in (self.folder / split).glob("*.png")]


FILES = {"train": ["5_0", "5_1", "31_0", "31_1"], "query": ["7_0", "8_0"], "gallery": ["7_1", "8_1"]}


@pytest.fixture
def tiny(tmp_path) -> Tiny:
    for split, names in FILES.items():
        (tmp_path / "tiny" / split).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (20, 40), "red").save(tmp_path / "tiny" / split / f"{name}.png")
    return Tiny(tmp_path)


def test_splits_and_labels(tiny):
    assert [sample.path.stem for sample in tiny.train] == sorted(FILES["train"])
    assert tiny.labels == {5: 0, 31: 1}
    assert tiny.fingerprint() is None


def test_a_missing_set(tmp_path):
    with pytest.raises(UserError) as raised:
        _ = Tiny(tmp_path).query
    for part in (str(tmp_path / "tiny"), "Ask the author.", Tiny.card.tree):
        assert part in str(raised.value)


def test_shared_identities(tiny):
    (tiny.folder / "train" / "5_0.png").rename(tiny.folder / "query" / "5_0.png")
    with pytest.raises(UserError, match="1 identity is in both training and test, such as 5"):
        _ = tiny.gallery
    assert any("both training and test" in difference for difference in check(tiny).differences)


def test_check(tiny):
    report = check(tiny)
    assert report.ok
    assert report.found["gallery"] == Split(2, 2, 1)
    assert "not published" in str(report)  # the cameras of the queries


def test_check_gives_the_first_three_differences(tiny):
    for path in [*(tiny.folder / "train").glob("31_*"), *(tiny.folder / "query").glob("7_*")]:
        path.unlink()
    report = check(tiny)
    assert not report.ok
    assert report.differences == (
        "train: expected 4 images, found 2",
        "train: expected 2 identities, found 1",
        "query: expected 2 images, found 1",
    )
    assert all(difference in str(report) for difference in report.differences)
    assert report.more == 1
    assert "and 1 more" in str(report)


def test_contact_sheet(tiny, tmp_path):
    target = tmp_path / "new" / "sheet.png"
    contact_sheet(tiny, "train", 9, target)
    pixels = np.asarray(Image.open(target))
    red = (pixels == (255, 0, 0)).all(-1)
    assert red.sum() == 4 * 36 * 72  # four cells, filled in height, with the shape kept
    assert [path.name for path in target.parent.iterdir()] == ["sheet.png"]


def test_contact_sheet_says_where_an_image_is_broken(tiny, tmp_path):
    contact_sheet(tiny, "train", 9, tmp_path / "whole.png")
    sorted((tiny.folder / "train").iterdir())[0].write_bytes(b"")
    contact_sheet(tiny, "train", 9, tmp_path / "sheet.png")
    whole, pixels = (np.asarray(Image.open(tmp_path / name)) for name in ("whole.png", "sheet.png"))
    red = (pixels == (255, 0, 0)).all(-1)
    assert red.sum() == 3 * 36 * 72
    assert whole.shape == pixels.shape


@pytest.mark.parametrize(("split", "rows"), [("test", 3), ("train", 0)])
def test_contact_sheet_refuses(tiny, tmp_path, split, rows):
    with pytest.raises(UserError, match="train, query, gallery"):
        contact_sheet(tiny, split, rows, tmp_path / "sheet.png")
