"""The contract that every registered dataset fulfills."""

import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from benchmark import evaluation
from benchmark.data import files
from benchmark.data.augment import train_transform
from benchmark.data.card import Card
from benchmark.data.check import check, sizes, unmatched_queries
from benchmark.data.loaders import train_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS
from benchmark.engine.optimization import build_optimizer
from benchmark.engine.train import assemble, optim_wrapper
from benchmark.errors import UserError
from benchmark.model.residual_blocks import build
from benchmark.recipe import compose
from benchmark.registry import DATASETS, METHODS
from benchmark.results.record import Record
from benchmark.retrieval.protocol import Protocol


@pytest.fixture(params=DATASETS.names())
def name(request):
    return request.param


@pytest.fixture
def miniature(name, make):
    return make(name)


@pytest.fixture
def original(name, originals):
    """A miniature that the test does not change."""
    return originals(name).open()


class TestDeclaration:
    def test_name_card_and_protocol(self, name, tmp_path):
        dataset_class = DATASETS.find(name)
        card = dataset_class.card
        assert issubclass(dataset_class, RetrievalDataset)
        assert dataset_class.name == name
        assert isinstance(card, Card)
        assert isinstance(dataset_class(tmp_path).protocol, Protocol)
        assert set(card.splits) <= {*SPLITS, "all"}
        assert {split for split, _ in card.disputed} <= set(card.splits)
        assert all((card.title, card.citation, card.terms, card.obtain, card.tree, dataset_class.__doc__))

    def test_options_have_hints_defaults_and_attributes(self, name, tmp_path):
        dataset_class = DATASETS.find(name)
        options = list(inspect.signature(dataset_class).parameters.values())[1:]
        hints = get_type_hints(dataset_class.__init__)
        assert all(option.default is not option.empty and option.name in hints for option in options)
        dataset = dataset_class(tmp_path)
        values = {option.name: getattr(dataset, option.name) for option in options}
        same = dataset_class(tmp_path, **values)
        assert {option.name: getattr(same, option.name) for option in options} == values
        assert dataset.non_default_options() == {}
        assert set(dataset.evaluation_options) <= values.keys()
        documentation = f"{dataset_class.__doc__}{RetrievalDataset.__doc__}"
        assert all(f"{option.name}:" in documentation for option in options)

    def test_missing_dataset_explains_how_to_obtain_it(self, name, tmp_path):
        missing = DATASETS.find(name)(tmp_path)
        for use in (lambda: missing.train, lambda: check(missing), lambda: missing.labels):
            with pytest.raises(UserError) as raised:
                use()
            for part in (str(missing.folder), missing.card.obtain, missing.card.tree):
                assert part in str(raised.value)

    def test_recipe_composes(self, name):
        recipe = compose("none", name)
        assert recipe.teacher.network != recipe.student
        assert recipe.train.schedule.epochs > recipe.train.schedule.warmup_epochs


class TestSamples:
    def test_training_and_test_identities_are_disjoint(self, original):
        test = {sample.identity for sample in original.query + original.gallery}
        assert test
        assert not test & {sample.identity for sample in original.train}

    def test_labels_number_the_sorted_identities(self, original):
        assert list(original.labels.values()) == list(range(len(original.labels)))
        assert list(original.labels) == sorted({sample.identity for sample in original.train})

    def test_order_is_independent_of_the_disk(self, original, originals, name, monkeypatch):
        entries = files._entries
        monkeypatch.setattr(files, "_entries", lambda folder: entries(folder)[::-1])
        reversed_ = originals(name).open()
        for split in SPLITS:
            samples = getattr(original, split)
            assert samples == getattr(reversed_, split)
            assert list(samples) == sorted(samples, key=lambda sample: str(sample.path))
            assert all(sample.path.is_file() for sample in samples)

    def test_every_query_has_a_match(self, original):
        protocol = original.protocol
        for query in original.query:
            assert any(
                match.identity == query.identity
                and not (protocol.camera_rule and match.camera == query.camera)
                and not (protocol.query_in_gallery and match.path == query.path)
                for match in original.gallery
            ), query.path
        assert unmatched_queries(original) == 0

    def test_validation_images_are_training_images_of_other_identities(self, original, originals, name):
        dataset = originals(name).open(validation_fraction=0.4)
        if len(original.labels) < 4 and not original.validation_fraction:  # the miniature is too small
            with pytest.raises(UserError, match="leaves fewer than two for training or validation"):
                _ = dataset.train
            return
        parts = [{sample.identity for sample in samples} for samples in (dataset.train, dataset.held_out)]
        assert all(parts) and not parts[0] & parts[1]
        everything = originals(name).open(validation_fraction=0.0)
        assert sorted([*dataset.train, *dataset.held_out]) == sorted(everything.train)
        assert (dataset.query, dataset.gallery) == (original.query, original.gallery)
        assert dataset.fingerprint()

    def test_query_and_gallery_are_equal_if_the_protocol_says_so(self, original):
        assert (original.query == original.gallery) == original.protocol.query_in_gallery


def test_samples_are_independent_of_the_process(originals):
    """Another process, in which strings have other hashes, lists the same samples of all datasets."""
    miniatures = [originals(name) for name in DATASETS.names()]
    code = (
        "import json, sys; from pathlib import Path; from benchmark.registry import DATASETS\n"
        "for name, root, options in json.loads(sys.argv[1]):\n"
        "    d = DATASETS.find(name)(Path(root), **options)\n"
        "    print([d.train, d.query, d.gallery, d.labels])"
    )
    arguments = json.dumps([(miniature.name, str(miniature.root), miniature.options) for miniature in miniatures])
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code, arguments]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    datasets = [miniature.open() for miniature in miniatures]
    assert other.stdout.splitlines() == [str([d.train, d.query, d.gallery, d.labels]) for d in datasets]


class TestCheck:
    def test_published_sizes_are_ok(self, original, monkeypatch):
        found = sizes(original)
        monkeypatch.setattr(original, "expected_sizes", lambda: found)
        report = check(original, decode=True)
        assert report.ok, str(report)
        assert "all as expected" in str(report)
        assert original.card.tree.splitlines()[0] in str(report)

    def test_wrong_count_is_a_defect_or_if_disputed_a_warning(self, original, monkeypatch):
        found = sizes(original)
        monkeypatch.setattr("benchmark.data.check.DISPUTED_TOLERANCE", 1.0)
        for split in found.keys() - ({"gallery"} if original.protocol.query_in_gallery else {}):
            images = found[split].images
            expected = found | {split: replace(found[split], images=images + 1)}
            monkeypatch.setattr(original, "expected_sizes", lambda expected=expected: expected)
            report = check(original)
            difference = f"{split}: expected {images + 1:,} images, found {images:,}"
            disputed = (split, "images") in original.card.disputed
            assert any(difference in line for line in (report.warnings if disputed else report.defects))
            assert report.ok == disputed

    def test_missing_image_is_a_defect(self, miniature, monkeypatch):
        dataset = miniature.open()
        found = sizes(dataset)
        dataset.train[0].path.unlink()
        again = miniature.open()
        monkeypatch.setattr(again, "expected_sizes", lambda: found)
        assert not check(again).ok

    def test_missing_required_path_is_named(self, miniature):
        dataset = miniature.open()
        for required in dataset.required_paths:
            alternatives = (required,) if isinstance(required, str) else required
            path = files.first_existing(dataset.folder, *alternatives)
            path.rename(miniature.root / "away")
            with pytest.raises(UserError, match=re.escape(f"has no {' or '.join(alternatives)}")):
                _ = miniature.open().train
            assert not check(miniature.open()).ok
            (miniature.root / "away").rename(path)
        assert miniature.open().train == dataset.train


def test_identity_is_that_of_the_images_wherever_they_are(miniature, original, tmp_path):
    assert miniature.open().fingerprint() == original.fingerprint()
    image = miniature.open().query[0].path
    image.write_bytes(image.read_bytes()[:-20] + b"x" * 20)
    try:
        assert miniature.open().fingerprint() != original.fingerprint()
    except UserError as error:  # the suite knows the images of generated datasets
        assert image.name in str(error)


def test_archive_is_prepared(name, originals, tmp_path, command_line, monkeypatch):
    """The folder of the official archive, or of each package, packed and unpacked again."""
    dataset = originals(name).open()
    if type(dataset).prepare is not RetrievalDataset.prepare:
        pytest.skip("the dataset has no archive")
    folders = [dataset.folder / package.folder for package in dataset.card.packages]
    if folders:
        archives = [shutil.make_archive(str(tmp_path / folder.name), "gztar", folder) for folder in folders]
        hashes = [hashlib.sha256(Path(archive).read_bytes()).hexdigest() for archive in archives]
        pairs = zip(dataset.card.packages, hashes, strict=True)
        packages = [replace(package, sha256=sha256) for package, sha256 in pairs]
        monkeypatch.setattr(type(dataset), "card", replace(dataset.card, packages=tuple(packages)))
    else:
        archives = [
            shutil.make_archive(str(tmp_path / "official"), "gztar", dataset.folder.parent, dataset.folder.name)
        ]
    root = tmp_path / "unpacked"
    if folders:  # with the packages, the command can be repeated
        command_line("data", "prepare", name, archives[0], "--data-root", root)
    code, _, err = command_line("data", "prepare", name, *archives, "--data-root", root)
    assert code in (0, 1)  # 1 because a miniature does not have the published sizes
    assert "files" in err
    again = DATASETS.find(name)(root)
    assert [sample.path.name for sample in again.train] == [sample.path.name for sample in dataset.train]


class TestTraining:
    def test_one_step_and_evaluation(self, name, originals, small):
        miniature = originals(name)
        recipe = compose("kd", name, settings=[*small, *miniature.settings])
        test = evaluation.TestSet.from_recipe(recipe, miniature.root, torch.device("cpu"))
        labels = len(test.dataset.labels)
        loader = train_loader(
            test.dataset,
            train_transform(recipe.image_size, **recipe.train.augment.model_dump(exclude={"load_size"})),
            identities=recipe.train.sampler.identities,
            images=recipe.train.sampler.images,
            seed=0,
            loading=test.loading,
        )
        student, teacher = (
            build(**network.model_dump(exclude={"weights"}), identities=labels)
            for network in (recipe.student, recipe.teacher.network)
        )
        method = METHODS.find("kd")(**recipe.method.arguments)
        distiller = assemble(
            student, teacher, method, recipe=recipe, dataset=test.dataset, steps_per_epoch=len(loader)
        ).train()
        optimizer = build_optimizer(distiller, recipe.train.optimizer)
        step = optim_wrapper(distiller, optimizer, recipe, torch.device("cpu"))
        before = [parameter.clone() for parameter in student.parameters()]
        losses = distiller.train_step(next(iter(loader)), step)
        assert torch.isfinite(losses["loss"])
        changes = [bool((old != new).any()) for old, new in zip(before, student.parameters(), strict=True)]
        assert any(changes)

        student.eval()
        query = test.embed(student, "query")
        gallery = None if test.protocol.query_in_gallery else test.embed(student, "gallery")
        scores = test.score(query, gallery)
        assert set(scores.recall) == set(test.dataset.protocol.recall_at)
        assert scores.skipped == 0

    def test_command_line(self, make, small, tmp_path, monkeypatch, command_line):
        """Two epochs of kd on one dataset; the other datasets differ only in what the step above covers."""
        miniature = make("market1501")
        monkeypatch.chdir(tmp_path)
        arguments = ["--method", "kd", "--dataset", miniature.name, "--data-root", miniature.root, "--device", "cpu"]
        settings = chain.from_iterable(("--set", setting) for setting in [*small, *miniature.settings])
        code, out, err = command_line("run", *arguments, *settings)
        assert code == 0, err
        record = Record.read(next(Path("runs", miniature.name, "kd").glob("*/record.json")))
        dataset = miniature.open()
        assert {split: size.images for split, size in record.data.splits.items()} == {
            split: len(getattr(dataset, split)) for split in SPLITS
        }
        assert set(record.scores.symmetric.recall) == {str(k) for k in dataset.protocol.recall_at}
        assert record.scores.symmetric.skipped == 0
        assert "epoch 2/2" in err
        page = Path(out.split()[-1])
        assert page.name == f"{record.board}.md"
        assert "`kd`" in page.read_text()
