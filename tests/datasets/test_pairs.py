"""Pairs on miniatures of their datasets: the dry run as published, and two steps with small networks."""

import math
import re

import pytest
import torch

from benchmark.engine.files import read_metrics
from benchmark.engine.train import train
from benchmark.evaluation import TestSet
from benchmark.experiment import experiment
from benchmark.model.residual_blocks import build
from benchmark.recipe import compose, find_pair, pair_names
from benchmark.registry import METHODS
from benchmark.results.record import Record

CUB = "air-r101-r18-cub"


@pytest.fixture(scope="session")
def shrunk(small) -> list[str]:
    """Settings with which a pair trains two steps in seconds, on images of 32 x 32 pixels."""
    plain = "{_delete_: true, pad: 2}"
    return [
        *small,
        *("image_size=[32, 32]", "student.image_size=[16, 16]", f"train.augment={plain}", "train.sampler.views=1"),
        *(f"teacher.train.augment={plain}", "teacher.train.schedule={_delete_: true, epochs: 1, warmup_epochs: 0}"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", pair_names())
def test_dry_run(name, originals, command_line, monkeypatch, tmp_path):
    # A reader has the pretrained weights, and more images than the miniature.
    monkeypatch.setattr(experiment, "require_ready", lambda trainings, dataset: [])
    monkeypatch.chdir(tmp_path)
    root = originals(find_pair(name).dataset.name).root
    code, out, error = command_line("run", "--pair", name, "--dry-run", "--data-root", root, "--device", "cpu")
    assert code == 0, error
    assert f"pair:\n  name: {name}\n  changed: []\n" in out
    assert "teacher: resnet" in out and "not as in the pair" not in error


@pytest.mark.slow
@pytest.mark.parametrize("name", pair_names())
def test_two_steps(name, originals, shrunk, tmp_path):
    recipe = compose(settings=shrunk, pair=name)
    test = TestSet.from_recipe(recipe, originals(recipe.dataset.name).root, torch.device("cpu"))
    test.dataset.prepare()
    torch.set_num_threads(1)
    networks = [
        build(**network.model_dump(exclude={"weights"}), identities=len(test.dataset.labels))
        for network in (recipe.student, recipe.teacher.network)
    ]
    method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
    train(*networks, method, recipe=recipe, test=test, folder=tmp_path, resume=False, title=name)
    losses = [row["loss"] for row in read_metrics(tmp_path)]
    assert len(losses) == 2 and all(map(math.isfinite, losses))


@pytest.mark.slow
def test_run_prints_and_publishes_both_columns(originals, shrunk, command_line, tmp_path):
    settings = [word for setting in shrunk for word in ("--set", setting)]
    places = ["--data-root", originals("cub200").root, "--work-dir", tmp_path / "runs", "--leaderboards", tmp_path]
    code, out, error = command_line("run", "--pair", CUB, *settings, *places, "--device", "cpu")
    assert code == 0, error
    assert f"note: --pair {CUB}: not as in the pair: image_size, " in error
    assert f"authors / here: {CUB}, seed 0" in out
    (path,) = (tmp_path / "records").glob("*-d3still-*.json")
    record = Record.read(path)
    here = [record.teacher.scores.mAP, record.teacher.scores.recall["1"]]
    here += [record.scores.asymmetric.mAP, record.scores.asymmetric.recall["1"]]
    rows = re.findall(r"^ *(teacher|student) +(\S.*?) {2,}([\d.]+) +(\S+)", out, flags=re.MULTILINE)
    authors = {
        "teacher": {"mAP": "71.3", "R@1": "81.57"},
        "student": {"asymmetric mAP": "59.4", "asymmetric R@1": "64.46"},
    }
    names = [(network, metric, value) for network, figures in authors.items() for metric, value in figures.items()]
    assert [row for row in rows if row[1] in ("mAP", "R@1", "asymmetric mAP", "asymmetric R@1")] == [
        (*name, f"{100 * value:.1f}") for name, value in zip(names, here, strict=True)
    ]
    page = (tmp_path / f"{record.board}.md").read_text(encoding="utf-8")
    assert "## Authors and here" in page and f"`{CUB}`" in page and "`dataset.images`" in page
