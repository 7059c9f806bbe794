"""What every registered dataset keeps to."""

import inspect
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest

from benchmark.data.card import Card
from benchmark.data.check import check
from benchmark.data.retrieval_dataset import SPLITS, RetrievalDataset
from benchmark.errors import UserError
from benchmark.recipe import compose
from benchmark.registry import DATASETS
from benchmark.results.record import Record
from benchmark.retrieval.protocol import Protocol

SMALL = [
    *("image_size=[16, 16]", "train.schedule.epochs=2", "train.schedule.warmup_epochs=0"),
    *("teacher.train.schedule.epochs=2", "train.sampler={identities: 3, images: 2}", "train.augment.pad=2"),
    *("teacher.train.sampler={identities: 3, images: 2}", "runtime={threads: 1, amp: 'off'}"),
    *(
        f"{network}={{backbone: resnet14t, args: {{channels: [8, 8, 8, 8], stem_width: 8}}, weights: random, dim: 8}}"
        for network in ("teacher.network", "student")
    ),
]
"""Settings under which any dataset's own recipe trains in seconds."""

pytestmark = pytest.mark.parametrize("name", DATASETS.names())


@pytest.fixture
def miniature(name, make):
    return make(name)


class TestDeclaration:
    def test_has_name_card_and_protocol(self, name, tmp_path):
        declared = DATASETS.find(name)
        assert issubclass(declared, RetrievalDataset)
        assert declared.name == name
        assert isinstance(declared.card, Card)
        assert isinstance(declared(tmp_path).protocol, Protocol)
        assert set(declared.card.splits) <= {*SPLITS, "all"}
        assert {split for split, _ in declared.card.disputed} <= set(declared.card.splits)
        card = declared.card
        assert all((card.title, card.citation, card.terms, card.obtain, card.tree, declared.__doc__))

    def test_options_have_hints_defaults_and_attributes(self, name, tmp_path):
        declared = DATASETS.find(name)
        options = list(inspect.signature(declared).parameters.values())[1:]
        hints = get_type_hints(declared.__init__)
        assert all(option.default is not option.empty and option.name in hints for option in options)
        made = declared(tmp_path)
        understood = {option.name: getattr(made, option.name) for option in options}
        again = declared(tmp_path, **understood)
        assert {option.name: getattr(again, option.name) for option in options} == understood
        assert made.variant() == {}
        assert set(made.judged_by) <= understood.keys()
        assert all(f"{option.name}:" in declared.__doc__ for option in options)

    def test_a_missing_set_says_where_what_and_how(self, name, tmp_path):
        missing = DATASETS.find(name)(tmp_path)
        for use in (lambda: missing.train, lambda: check(missing), lambda: missing.labels):
            with pytest.raises(UserError) as raised:
                use()
            for part in (str(missing.folder), missing.card.obtain, missing.card.tree):
                assert part in str(raised.value)

    def test_the_recipe_composes_and_is_a_recipe_for_retrieval(self, name):
        recipe = compose("none", name)
        assert recipe.teacher.network != recipe.student
        assert recipe.train.schedule.epochs > recipe.train.schedule.warmup_epochs


class TestSamples:
    def test_identities_are_disjoint(self, miniature):
        dataset = miniature.open()
        test = {sample.identity for sample in dataset.query + dataset.gallery}
        assert test
        assert not test & {sample.identity for sample in dataset.train}

    def test_labels_number_the_sorted_identities(self, miniature):
        dataset = miniature.open()
        assert list(dataset.labels.values()) == list(range(len(dataset.labels)))
        assert list(dataset.labels) == sorted({sample.identity for sample in dataset.train})

    def test_neither_the_process_nor_the_order_of_the_disk_decides(self, miniature, name, monkeypatch):
        dataset = miniature.open()
        code = (
            "import sys; from pathlib import Path; from benchmark.registry import DATASETS\n"
            f"d = DATASETS.find({name!r})(Path({str(miniature.root)!r}), **{miniature.options!r})\n"
            "print([d.train, d.query, d.gallery, d.labels])"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == str([dataset.train, dataset.query, dataset.gallery, dataset.labels])
        listing = sys.modules["benchmark.data.files"]._entries
        monkeypatch.setattr("benchmark.data.files._entries", lambda folder: listing(folder)[::-1])
        backwards = miniature.open()
        for split in SPLITS:
            samples = getattr(dataset, split)
            assert samples == getattr(backwards, split)
            assert list(samples) == sorted(samples, key=lambda sample: str(sample.path))
            assert all(sample.path.is_file() for sample in samples)

    def test_every_query_has_a_match(self, miniature):
        dataset = miniature.open()
        protocol = dataset.protocol
        for query in dataset.query:
            assert any(
                match.identity == query.identity
                and not (protocol.camera_rule and match.camera == query.camera)
                and not (protocol.query_in_gallery and match.path == query.path)
                for match in dataset.gallery
            ), query.path
        assert dataset.unmatched() == 0

    def test_one_list_is_one_list(self, miniature):
        dataset = miniature.open()
        assert (dataset.query == dataset.gallery) == dataset.protocol.query_in_gallery


class TestCheck:
    def test_finds_nothing_wrong_where_the_counts_are_the_published_ones(self, miniature, monkeypatch):
        dataset = miniature.open()
        found = dataset.counts()
        monkeypatch.setattr(dataset, "expected", lambda: found)
        report = check(dataset, decode=True)
        assert report.ok, str(report)
        assert "all as expected" in str(report)
        assert dataset.card.tree.splitlines()[0] in str(report)

    def test_a_count_that_differs_is_a_defect_or_where_disputed_a_note(self, miniature, monkeypatch):
        dataset = miniature.open()
        found = dataset.counts()
        for split in found.keys() - ({"gallery"} if dataset.protocol.query_in_gallery else {}):
            changed = found | {split: replace(found[split], images=found[split].images + 1)}
            monkeypatch.setattr(dataset, "expected", lambda changed=changed: changed)
            monkeypatch.setattr("benchmark.data.check.DISPUTE", 1.0)
            report = check(dataset)
            said = f"{split}: expected {found[split].images + 1:,} images, found {found[split].images:,}"
            disputed = (split, "images") in dataset.card.disputed
            assert any(said in line for line in (report.warnings if disputed else report.differences))
            assert report.ok == disputed

    def test_a_lost_image_is_missed(self, miniature, monkeypatch):
        dataset = miniature.open()
        found = dataset.counts()
        dataset.train[0].path.unlink()
        again = miniature.open()
        monkeypatch.setattr(again, "expected", lambda: found)
        assert not check(again).ok

    def test_a_lost_part_is_named(self, miniature):
        dataset = miniature.open()
        for part in dataset.parts:
            places = (part,) if isinstance(part, str) else part
            lost = next(place for place in places if (dataset.folder / place).exists())
            (dataset.folder / lost).rename(miniature.root / "away")
            with pytest.raises(UserError, match=re.escape(f"has no {' or '.join(places)}")):
                _ = miniature.open().train
            assert not check(miniature.open()).ok
            (miniature.root / "away").rename(dataset.folder / lost)
        assert miniature.open().train == dataset.train


def test_two_epochs_of_kd_through_the_command_line(name, miniature, tmp_path, monkeypatch, capsys):
    from benchmark import cli

    monkeypatch.chdir(tmp_path)
    arguments = ["run", "--method", "kd", "--dataset", name, "--data-root", str(miniature.root), "--device", "cpu"]
    settings = [part for setting in SMALL for part in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, *settings, *miniature.settings])
    with pytest.raises(SystemExit) as ended:
        cli.main()
        raise SystemExit(0)
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    record = Record.read(next(Path("runs", name, "kd").glob("*/record.json")))
    dataset = miniature.open()
    assert {split: counts.images for split, counts in record.data.splits.items()} == {
        split: len(getattr(dataset, split)) for split in SPLITS
    }
    assert set(record.scores.symmetric.recall) == {str(k) for k in dataset.protocol.recall_at}
    assert record.scores.symmetric.skipped == 0
    assert "epoch 2/2" in printed.err
    page = Path(printed.out.split()[-1])
    assert page.name == f"{record.board}.md"
    assert "`kd`" in page.read_text()


def test_an_archive_of_it_is_prepared(name, miniature, tmp_path, monkeypatch, capsys):
    """The folder as the official archive holds it, packed and unpacked again."""
    from benchmark import cli

    dataset = miniature.open()
    if type(dataset).prepare is not RetrievalDataset.prepare or miniature.options:
        pytest.skip("it does not come in an archive")
    archive = shutil.make_archive(str(tmp_path / "official"), "gztar", dataset.folder.parent, dataset.folder.name)
    elsewhere = tmp_path / "elsewhere"
    command = ["benchmark", "data", "prepare", name, archive, "--data-root", str(elsewhere)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
        raise SystemExit(0)
    again = DATASETS.find(name)(elsewhere)
    assert [sample.path.name for sample in again.train] == [sample.path.name for sample in dataset.train]
    assert ended.value.code in (0, 1)  # a miniature has not the published counts
    assert "files" in capsys.readouterr().err
