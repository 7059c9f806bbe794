"""Presets: their files, and how they are merged."""

import re
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.recipe import compose, find_preset, preset_names
from benchmark.suite.grid import Grid

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "benchmark" / "recipe" / "presets"


@pytest.fixture(params=preset_names())
def name(request):
    return request.param


def test_states_its_sources(name):
    preset = find_preset(name)
    assert preset.title and preset.differences
    assert all(source.files and len(source.commit) == 40 for source in preset.sources)


def test_composes(name):
    preset = find_preset(name)
    recipe = compose(preset=name)
    assert (recipe.method.name, recipe.dataset.name) == (preset.method, preset.dataset)
    assert recipe.train.schedule.epochs >= 60
    assert compose(recipe.method.name, recipe.dataset.name, preset=name) == recipe


def test_documentation_lists_all():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]*) \|$", text, flags=re.MULTILINE)
    assert rows == [(name, find_preset(name).title) for name in preset_names()]


class TestPrecedence:
    def test_over_the_dataset_and_below_config_and_set(self):
        settings = ["train.sampler.images=8"]
        recipe = compose(None, None, {"train": {"schedule": {"epochs": 3}}}, settings, preset="rkd-cub")
        assert recipe.image_size == (224, 224)
        assert recipe.train.schedule.epochs == 3
        assert (recipe.train.sampler.identities, recipe.train.sampler.images) == (26, 8)

    def test_another_method_has_its_own_arguments(self):
        recipe = compose("fitnet", preset="air-distiller-msmt17")
        assert recipe.method == compose("fitnet", "msmt17").method
        assert recipe.student.image_size == (160, 80)

    def test_combination_has_the_arguments(self):
        arguments = compose(None, None, {"method": "d3still+kd"}, preset="air-distiller-msmt17").method.arguments
        assert arguments["d3still"]["feature_weight"] == 50.0

    def test_another_dataset_has_its_own_options(self):
        recipe = compose(preset="air-distiller-cub", settings=["dataset.name=cars196"])
        assert recipe.dataset == compose("none", "cars196").dataset
        assert recipe.train.augment.pad == 8


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        (
            "air-distiller",
            [],
            "no preset 'air-distiller'; did you mean 'air-distiller-cub'. Known: air-distiller-cub, ",
        ),
        ("rkd-cub", ["train.optimizer.lr=-1"], "train.optimizer.lr in --set: "),
    ],
)
def test_refusals(preset, settings, message):
    with pytest.raises(UserError, match=message):
        compose(preset=preset, settings=settings)


def test_mistakes_in_a_file_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.recipe.preset.FOLDER", tmp_path)
    text = (PRESETS / "rkd-cub.yaml").read_text(encoding="utf-8")
    (tmp_path / "negative.yaml").write_text(f"{text}  seed: -1\n")
    with pytest.raises(UserError, match="seed in preset negative: "):
        compose(preset="negative")
    (tmp_path / "untitled.yaml").write_text(text.replace("title:", "name:"))
    with pytest.raises(UserError, match=r"untitled.yaml is damaged: "):
        compose(preset="untitled")


def test_saved_recipe_is_refused():
    saved = compose("none", "cub200").model_dump(mode="json")
    with pytest.raises(UserError, match=r"--preset rkd-cub: config has the key 'version'.*; give one of them"):
        compose(config=saved, preset="rkd-cub")


def test_suite_has_the_method_and_dataset_of_the_preset(tmp_path):
    recipes = Grid.from_file(None, preset="rkd-cub", seeds=[0, 1]).recipes()
    assert [recipe.seed for recipe in recipes] == [0, 1]
    assert recipes[0] == compose(preset="rkd-cub")
    file = tmp_path / "suite.yaml"
    file.write_text("preset: rkd-cub\nmethods: [rkd, pkt]")
    names = [(recipe.method.name, recipe.image_size) for recipe in Grid.from_file(file).recipes()]
    assert names == [("rkd", (224, 224)), ("pkt", (224, 224))]


def test_list_and_show(command_line):
    code, out, _ = command_line("list", "presets")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == preset_names()
    code, out, _ = command_line("show", "air-distiller-cub")
    assert code == 0
    assert out.startswith("air-distiller-cub (preset)\n\nAIR-Distiller on CUB-200-2011")
    assert "  - SCY-X/D3still at 438fbef7dba5: Training_Configs/CUB200/" in out
    assert "Recipe (--preset air-distiller-cub):\n  dataset:\n    name: cub200\n    split: closed\n" in out
    code, _, err = command_line("show", "rkd-cup")
    assert code == 2 and "did you mean 'rkd-cub'?" in err
