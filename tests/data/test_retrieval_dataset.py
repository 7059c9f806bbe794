"""The base class of datasets, and the check of a dataset."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.card import Split
from benchmark.data.check import check, is_published
from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.experiment.inputs import split_sizes
from benchmark.recipe import compose
from benchmark.registry import DATASETS
from benchmark.utils.recipe_hash import recipe_hash


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


@pytest.mark.parametrize(
    "found",
    [
        ["a.jpg"],
        [(Path("a.jpg"), 1, 0)],
        [Sample("a.jpg", 1, 0)],
        [Sample(Path("a.jpg"), "one", 0)],
        [Sample(Path("a.jpg"), 1.0, 0)],
        [Sample(Path("a.jpg"), np.int64(1), 0)],
        [Sample(Path("a.jpg"), 1, None)],
        [Sample(Path("a.jpg"), 10**30, 0)],
        [None],
        None,
    ],
)
def test_scan_of_a_plugin_that_yields_something_else(dataset, monkeypatch, found):
    monkeypatch.setattr(type(dataset), "scan", lambda self, split: found)
    with pytest.raises(UserError, match=r"scan.* yields .*: it has to yield Sample\("):
        _ = dataset.listings


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


class TestBackground:
    """Every dataset has the option, though no constructor declares it."""

    @pytest.mark.parametrize("name", ["market1501", "vehicleid", "folder"])
    def test_is_an_option_of_every_dataset(self, name, tmp_path):
        dataset = DATASETS.find(name)(tmp_path, background="#000")
        assert dataset.background_color == (0, 0, 0)
        assert dataset.non_default_options() == {"background": "black"}
        assert dataset.reopened().background == "black"

    def test_default_does_not_change_the_hash_of_a_recipe(self):
        default = compose("kd", "market1501")
        assert default.dataset.arguments["background"] == "white"
        without = {key: value for key, value in default.model_dump(mode="json").items() if key != "dataset"}
        assert recipe_hash({**without, "dataset": {"name": "market1501"}}) == default.hash

    def test_equal_colors_are_equal_options(self):
        hashes = {
            compose("kd", "market1501", settings=[f"dataset.background={color}"]).hash
            for color in ("black", "BLACK", "'#000'", "'#000000'", "rgb(0,0,0)")
        }
        assert len(hashes) == 1
        assert hashes != {compose("kd", "market1501").hash}

    @pytest.mark.parametrize("color", ["blakc", "'#00000080'", "rgb(300,0,0)", "''", "[0,0,0]", "7"])
    def test_other_values_are_refused(self, color):
        with pytest.raises(
            UserError, match=r"dataset\.background in --set: (must be an opaque color|should be a valid string)"
        ):
            compose("kd", "market1501", settings=[f"dataset.background={color}"])


class TestValidation:
    """Every dataset can hold out a fraction of the training identities."""

    @pytest.fixture
    def dataset(self, generate):
        test = [(100, 0), (101, 0)], [(100, 1), (101, 1)]
        return generate({"train": [(i, c) for i in range(10) for c in (0, 1)], "query": test[0], "gallery": test[1]})

    def held_out(self, dataset, fraction: float):
        return type(dataset)(dataset.root, validation_fraction=fraction)

    def test_identities_are_disjoint_and_complete(self, dataset):
        other = self.held_out(dataset, 0.25)  # rounded up
        train, validation = ({sample.identity for sample in samples} for samples in (other.train, other.held_out))
        assert len(validation) == 3 and not train & validation
        assert sorted((*other.train, *other.held_out)) == sorted(dataset.train)
        assert sorted(other.labels.values()) == list(range(7))
        assert other.query == dataset.query

    def test_is_the_same_at_every_time(self, dataset):
        assert self.held_out(dataset, 0.3).held_out == self.held_out(dataset, 0.3).held_out

    def test_is_part_of_the_identity(self, dataset):
        other = self.held_out(dataset, 0.3)
        assert other.identity.training != dataset.identity.training
        assert other.fingerprint() != dataset.fingerprint()
        assert other.non_default_options() == {"validation_fraction": 0.3}

    def test_counts_as_training_images_of_the_published_dataset(self, dataset):
        other = self.held_out(dataset, 0.3)
        assert set(split_sizes(other)) == {"train", "query", "gallery", "validation"}
        sizes = {"train": Split(20, 10, 2), "query": Split(2, 2, 1), "gallery": Split(2, 2, 1)}
        other.card = dataclasses.replace(other.card, splits=sizes)
        assert is_published(other, split_sizes(other))
        assert not is_published(other, {**split_sizes(other), "validation": Split(2, 1, 2)})
        assert "30% of the training identities are for validation" in str(check(other))

    def test_default_does_not_change_the_hash_of_a_recipe(self):
        default = compose("kd", "market1501")
        assert compose("kd", "market1501", settings=["dataset.validation_fraction=0.0"]).hash == default.hash
        assert compose("kd", "market1501", settings=["dataset.validation_fraction=0.1"]).hash != default.hash

    @pytest.mark.parametrize("fraction", [0.05, 0.85])
    def test_too_few_identities(self, dataset, fraction):
        with pytest.raises(UserError, match=r"dataset\.validation_fraction: .* leaves fewer than two"):
            _ = self.held_out(dataset, fraction).train

    @pytest.mark.parametrize("fraction", ["1.0", "-0.1", "half", "true"])
    def test_other_values_are_refused(self, fraction):
        with pytest.raises(UserError, match=r"dataset\.validation_fraction in --set: "):
            compose("kd", "market1501", settings=[f"dataset.validation_fraction={fraction}"])
