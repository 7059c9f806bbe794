"""Pairs on miniatures of their datasets: the dry run as published, and two steps with small networks."""

import re

import pytest

from benchmark.experiment import experiment
from benchmark.recipe import find_pair, pair_names
from benchmark.results.store import load_records


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The options of places that all runs share, so that pairs of a dataset share a teacher."""
    folder = tmp_path_factory.mktemp("pairs")
    return ["--work-dir", folder / "runs", "--leaderboards", folder / "boards", "--device", "cpu"]


def shrunk(small) -> list[str]:
    """Settings that make the recipe of a pair train in seconds: two steps, on images of 32 x 32 pixels."""
    plain = "{_delete_: true, pad: 2}"
    return [
        *small,
        *("image_size=[32, 32]", "student.image_size=[16, 16]", "student.dim=8", f"train.augment={plain}"),
        *(f"teacher.train.augment={plain}", "teacher.train.schedule={_delete_: true, epochs: 1, warmup_epochs: 0}"),
        "train.sampler.views=1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", pair_names())
def test_dry_run_and_two_steps(name, originals, small, places, command_line, monkeypatch):
    pair = find_pair(name)
    root = ["--data-root", originals(pair.dataset.name).root]
    with monkeypatch.context() as patch:  # a reader has the pretrained weights, and more images than the miniature
        patch.setattr(experiment, "require_ready", lambda trainings, dataset: [])
        code, out, error = command_line("run", "--pair", name, "--dry-run", *root, *places)
    assert code == 0, error
    assert f"pair:\n  name: {name}\n  changed: []\n" in out
    assert "teacher: resnet" in out and "not as in the pair" not in error

    settings = [word for setting in shrunk(small) for word in ("--set", setting)]
    code, out, error = command_line("run", "--pair", name, *settings, *root, *places)
    assert code == 0, error
    assert f"note: --pair {name}: not as in the pair: image_size, " in error
    assert f"authors / here: {name}, seed 0" in out
    (record,) = [
        each for each in load_records(places[3] / "records") if each.recipe.get("pair", {}).get("name") == name
    ]
    table = {
        (network, metric): (float(authors), here)
        for network, metric, authors, here in re.findall(
            r"^ *(teacher|student) +(\S.*?) {2,}([\d.]+) +(\S+)", out, re.M
        )
    }
    published = pair.published
    for network, figures in (("teacher", published.teacher.figures), ("student", published.student.figures)):
        for metric, value in figures.items():
            scores = record.teacher.scores if network == "teacher" else record.scores.symmetric
            scores = record.scores.asymmetric if metric.startswith("asymmetric") else scores
            kind = metric.removeprefix("asymmetric ")
            measured = scores.mAP if kind == "mAP" else scores.recall[kind.removeprefix("R@")]
            assert table[network, metric] == (value, f"{100 * measured:.1f}")
    page = (places[3] / f"{record.board}.md").read_text(encoding="utf-8")
    assert "## Authors and here" in page and f"`{name}`" in page
