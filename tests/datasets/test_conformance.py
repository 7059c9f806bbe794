"""What every registered dataset keeps to."""

import inspect
from typing import get_type_hints

import pytest

from benchmark.data.card import Card
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset
from benchmark.errors import UserError
from benchmark.registry import DATASETS
from benchmark.retrieval.protocol import Protocol

SMALL = {"glyphs": {"train_identities": 30, "test_identities": 10}}
"""Options under which a set that renders itself takes seconds."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", params=DATASETS.names())
def dataset(request, root) -> RetrievalDataset:
    """The set, or a skip where it cannot be made without a download."""
    made = DATASETS.find(request.param)(root, **SMALL.get(request.param, {}))
    made.prepare()
    if not made.folder.is_dir():
        pytest.skip(f"{made.card.title} is not here")
    return made


@pytest.mark.parametrize("name", DATASETS.names())
class TestDeclaration:
    def test_has_name_card_and_protocol(self, name):
        declared = DATASETS.find(name)
        assert issubclass(declared, RetrievalDataset)
        assert declared.name == name
        assert isinstance(declared.card, Card)
        assert isinstance(declared.protocol, Protocol)
        assert set(declared.card.splits) <= set(SPLITS)
        assert declared.__doc__

    def test_options_have_hints_and_defaults(self, name):
        init = DATASETS.find(name).__init__
        options = list(inspect.signature(init).parameters.values())[2:]
        assert all(option.default is not option.empty and option.name in get_type_hints(init) for option in options)

    def test_a_missing_set_says_where_what_and_how(self, name, tmp_path):
        missing = DATASETS.find(name)(tmp_path)
        for use in (lambda: missing.train, missing.check, lambda: missing.labels):
            with pytest.raises(UserError) as raised:
                use()
            for part in (str(missing.folder), missing.card.obtain, missing.card.tree):
                assert part in str(raised.value)


def test_identities_are_disjoint(dataset):
    test = {sample.identity for sample in dataset.query + dataset.gallery}
    assert not test & {sample.identity for sample in dataset.train}


def test_labels_number_the_sorted_identities(dataset):
    assert list(dataset.labels.values()) == list(range(len(dataset.labels)))
    assert list(dataset.labels) == sorted({sample.identity for sample in dataset.train})


def test_order_does_not_depend_on_the_instance(dataset):
    again = type(dataset)(dataset.root, **SMALL.get(dataset.name, {}))
    for split in SPLITS:
        samples = getattr(dataset, split)
        assert samples == getattr(again, split)
        assert list(samples) == sorted(samples)
        assert all(sample.path.is_file() for sample in samples)


def test_every_query_has_a_match(dataset):
    protocol = dataset.protocol
    for query in dataset.query:
        assert any(
            match.identity == query.identity
            and not (protocol.camera_rule and match.camera == query.camera)
            and not (protocol.query_in_gallery and match.path == query.path)
            for match in dataset.gallery
        ), query.path


def test_check_finds_nothing_wrong(dataset):
    report = dataset.check()
    assert report.ok, report.differences
    assert "as expected" in str(report)
