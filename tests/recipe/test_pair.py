"""Pairs: their files, what they compose, and how a run states what it changes."""

import json
import re
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.recipe import compose, find_pair, pair_names, remarks, replay
from benchmark.registry import DATASETS, METHODS
from benchmark.suite.grid import Grid

ROOT = Path(__file__).parents[2]
PAIRS = ROOT / "benchmark" / "recipe" / "pairs"
CUB = "air-r101-r18-cub"


@pytest.fixture(params=pair_names())
def name(request):
    return request.param


class TestFiles:
    def test_composes_as_published(self, name):
        pair, recipe = find_pair(name), compose(pair=name)
        assert (recipe.pair.name, recipe.pair.changed) == (name, ())
        given = pair.method.model_dump()
        assert {key: value for key, value in recipe.method.model_dump().items() if key in given} == given
        assert recipe.train == compose(pair.method.name, pair.dataset.name, preset=pair.preset).train
        assert recipe.teacher.network != recipe.student

    def test_published_scores_can_be_measured(self, name):
        pair = find_pair(name)
        ranks = DATASETS.find(pair.dataset.name).protocol.recall_at
        for metric in (*pair.published.teacher.figures, *pair.published.student.figures):
            rank = re.search(r"R@(\d+)$", metric)
            assert rank is None or int(rank[1]) in ranks
        aligned = METHODS.find(pair.method.name)(**compose(pair=name).method.arguments).aligned
        assert aligned or not any(metric.startswith("asymmetric") for metric in pair.published.student.figures)

    def test_documentation_lists_all(self):
        text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| `((?:air|relaxed)-r\d[\w-]+)` \| (.*?) \| (.*?) \|$", text, flags=re.MULTILINE)
        figures = {name: find_pair(name).published.student.figures for name in pair_names()}
        assert rows == [
            (name, find_pair(name).title, ", ".join(f"{metric} {value:g}" for metric, value in figures[name].items()))
            for name in pair_names()
        ]


class TestRun:
    def test_other_options_override(self):
        recipe = compose(None, None, {"train": {"schedule": {"epochs": 3}}}, ["dataset.split=zero_shot"], 7, pair=CUB)
        assert (recipe.train.schedule.epochs, recipe.seed) == (3, 7)
        assert recipe.pair.changed == ("dataset.split", "train.schedule.epochs")
        assert remarks(recipe.pair) == [
            "--pair air-r101-r18-cub: not as in the pair: dataset.split, train.schedule.epochs; the authors' results "
            "are for the pair's settings"
        ]

    @pytest.mark.parametrize("settings", [["teacher.seed=3", "runtime.workers=2"], ["evaluate.batch_size=8"]])
    def test_seeds_and_the_way_of_execution_change_nothing(self, settings):
        assert remarks(compose(settings=settings, seed=1, pair=CUB).pair) == []

    def test_many_changes_are_counted(self):
        settings = [f"train.augment.{key}=0" for key in ("pad", "flip")]
        settings += [f"method.{key}_weight=9" for key in ("feature", "hard", "easy")] + ["teacher.checkpoint=t.pth"]
        assert "and 1 more; " in remarks(compose(settings=settings, pair=CUB).pair)[0]

    def test_is_no_part_of_the_hash(self):
        with_pair, without = compose(pair=CUB), compose(preset="air-distiller-cub")
        assert with_pair.hash == without.hash
        assert with_pair.for_teacher().pair is None

    def test_recipes_without_a_pair_are_as_before(self):
        recipe = compose("kd", "glyphs2")
        assert "pair" not in recipe.recorded() and "pair" not in recipe.yaml()

    def test_saved_recipe_keeps_it(self, tmp_path):
        recipe = compose(pair=CUB)
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe.yaml())
        assert compose(config=path) == recipe
        assert replay(json.loads(json.dumps(recipe.recorded())), "record").pair == recipe.pair
        assert compose(config=path, settings=["train.schedule.epochs=2"]).pair.changed == ("train.schedule.epochs",)
        assert compose("kd", config=path, settings=["method={_delete_: true}"]).pair is None

    def test_suite(self, tmp_path):
        recipes = Grid.from_file(None, pair=CUB, seeds=[0, 1]).recipes()
        assert [recipe.seed for recipe in recipes] == [0, 1]
        assert recipes[0] == compose(pair=CUB)
        file = tmp_path / "suite.yaml"
        file.write_text(f"pair: {CUB}")
        assert Grid.from_file(file).recipes() == recipes[:1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pair": "air-r101-r18-cup"}, r"no pair 'air-r101-r18-cup'; did you mean 'air-r101-r18-cub'\? Known: air-"),
        ({"pair": CUB, "method": "kd"}, r"the published result is of the method d3still, and there is none of kd: "),
        ({"pair": CUB, "dataset": "sop"}, r"of the dataset cub200, and there is none of sop: .*--preset air-distiller"),
        ({"pair": CUB, "preset": "rkd-cub"}, r"--preset rkd-cub: --pair air-.* builds on air-distiller-cub; give one"),
        ({"pair": CUB, "settings": ["pair.name=x"]}, "pair in --set: give the pair as the option --pair"),
        ({"config": {"pair": {"name": CUB}}}, "pair in config: give the pair as the option --pair"),
        ({"pair": CUB, "settings": ["train.optimizer.lr=-1"]}, "train.optimizer.lr in --set: "),
        ({"pair": CUB, "config": {"version": 1}}, "--pair air-r101-r18-cub: config has the key 'version'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UserError, match=message):
        compose(**arguments)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("title:", "tittle:", "tittle: unknown key; did you mean title?"),
        ("title:", "tittle:", "title: missing"),
        ("published:", "reported:", "published: missing; a pair has published scores of both networks, and a preset"),
        ("  student:\n", "  pupil:\n", "published.student: missing; a pair has published scores of both networks"),
        ("{asymmetric mAP: 59.40, asymmetric R@1: 64.46}", "{}", "published.student.figures: Dictionary should have"),
        ("{mAP: 71.30, ", "{asymmetric mAP: 71.30, ", "published.teacher.figures: a teacher has no asymmetric mAP"),
        ("{mAP: 71.30, ", "{accuracy: 71.30, ", "published.teacher.figures.accuracy.[key]: String should match"),
        ("71.30", "713.0", "published.teacher.figures.mAP: Input should be less than or equal to 100"),
        ("98a0f43fe05a42bf5b7fb5c3d234051051539db1", "main", "published.student.source.commit: String should match"),
        ("preset: air-distiller-cub", "preset: air-cub", "preset: no preset 'air-cub'; did you mean"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, monkeypatch, before, after, message):
    monkeypatch.setattr("benchmark.recipe.pair.FOLDER", tmp_path)
    find_pair.cache_clear()
    text = (PAIRS / f"{CUB}.yaml").read_text(encoding="utf-8")
    assert before in text
    (tmp_path / "broken.yaml").write_text(text.replace(before, after))
    with pytest.raises(UserError) as refusal:
        compose(pair="broken")
    assert f"pair {tmp_path / 'broken.yaml'}: {message}" in str(refusal.value)


def test_list_and_show(command_line):
    code, out, _ = command_line("list", "pairs")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == pair_names()
    code, out, _ = command_line("show", CUB)
    assert code == 0
    assert out.startswith(f"{CUB} (pair)\n\nAIR-Distiller on CUB-200-2011")
    assert "  - teacher: mAP 71.3, R@1 81.57; SCY-X/D3still at 438fbef7dba5:\n    Training_Configs/CUB200/" in out
    assert "  - student: asymmetric mAP 59.4, asymmetric R@1 64.46; SCY-X/D3still at 98a0f43fe05a: README.md" in out
    assert f"Recipe (--pair {CUB}):\n  dataset:\n    name: cub200\n    split: closed\n" in out
    code, _, err = command_line("show", "air-r101-r18-cup")
    assert code == 2 and f"did you mean '{CUB}'?" in err
