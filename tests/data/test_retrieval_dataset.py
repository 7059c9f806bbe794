"""The base class of datasets, and the check of a dataset."""

import pytest

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.errors import UserError


@pytest.fixture
def dataset(generate):
    """Two training and two test identities with two cameras, as the card states."""
    return generate(
        {"train": [(5, 0), (5, 1), (31, 0), (31, 1)], "query": [(7, 0), (8, 0)], "gallery": [(7, 1), (8, 1)]}
    )


def test_splits_and_labels(dataset):
    assert [sample.path.stem for sample in dataset.train] == ["31_0", "31_1", "5_0", "5_1"]
    assert dataset.labels == {5: 0, 31: 1}


def test_missing_dataset(generated_class, tmp_path):
    with pytest.raises(UserError) as raised:
        _ = generated_class(tmp_path).query
    for part in (str(tmp_path / "generated"), "Run the test.", generated_class.card.tree):
        assert part in str(raised.value)


def test_shared_identity_is_a_defect(dataset):
    (dataset.folder / "train" / "5_0.png").rename(dataset.folder / "query" / "5_0.png")
    with pytest.raises(UserError, match="1 identity is in both training and test, such as 5"):
        _ = dataset.gallery
    assert any("both training and test" in defect for defect in check(dataset).defects)


def test_check_of_the_published_dataset(dataset):
    report = check(dataset)
    assert report.ok
    assert report.found["gallery"] == Split(2, 2, 1)
    assert "not published" in str(report)  # the number of query cameras


def test_report_shows_the_first_three_defects(dataset):
    for path in [*(dataset.folder / "train").glob("31_*"), *(dataset.folder / "query").glob("7_*")]:
        path.unlink()
    report = check(dataset)
    assert not report.ok
    assert report.defects == (
        "train: expected 4 images, found 2",
        "train: expected 2 identities, found 1",
        "query: expected 2 images, found 1",
        "query: expected 2 identities, found 1",
    )
    assert [defect in str(report) for defect in report.defects] == [True, True, True, False]
    assert "and 1 more" in str(report)
