"""Tuned arguments of methods: files, and recipes that use them."""

import pytest

from benchmark.errors import UserError
from benchmark.recipe import compose, with_settings
from benchmark.recipe.settings import TunedSettings, comparable

TUNING = {
    "dataset": "glyphs2",
    "options": comparable(compose("none", "glyphs2").recorded()["dataset"]),
    "data": "ab" * 32,
    "teacher": "sha256:" + "0" * 64,
    "budget": 0.42,
    "epochs": 20,
    "trials": 8,
    "seed": 0,
    "config": None,
    "changes": [],
    "software": "optuna 5.0.0",
}
RESULT = {"validation_mAP": 0.8, "default_mAP": None, "failed": 1, "study": "cd" * 32}
METHODS = {
    "kd": {"arguments": {"weight": 3.0, "temperature": 5.0}, **RESULT},
    "rkd": {"arguments": {"angle_weight": 9.0}, **RESULT},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tuned.yaml"
    TunedSettings.model_validate({"tuning": TUNING, "methods": METHODS}).write(path)
    return path


def tuned(method, file, *settings, dataset="glyphs2"):
    return compose(method, dataset, settings=[*with_settings(str(file)), *settings])


def test_file_is_read_back(file):
    assert TunedSettings.read(file).model_dump() == {"tuning": TUNING, "methods": METHODS}


def test_arguments_are_under_those_of_the_user(file):
    arguments = tuned("kd", file).method.arguments
    assert (arguments["weight"], arguments["temperature"]) == (3.0, 5.0)
    arguments = tuned("kd", file, "method.weight=2").method.arguments
    assert (arguments["weight"], arguments["temperature"]) == (2.0, 5.0)
    assert tuned("rkd", file).method.arguments["distance_weight"] == 25.0


def test_recipe_states_that_the_arguments_are_tuned(file):
    recipe = tuned("kd", file)
    spelled_out = compose("kd", "glyphs2", settings=["method.weight=3", "method.temperature=5"])
    assert (recipe.settings.source, spelled_out.settings.source) == ("tuned", "published")
    assert recipe.settings.study == TunedSettings.read(file).hash
    assert recipe.method == spelled_out.method and recipe.hash != spelled_out.hash
    assert recipe.for_teacher().hash == spelled_out.for_teacher().hash
    assert str(file) not in recipe.yaml()


def test_another_file_gives_another_recipe(file):
    before = tuned("kd", file)
    file.write_text(file.read_text().replace("trials: 8", "trials: 9"))
    assert tuned("kd", file).method == before.method and tuned("kd", file).hash != before.hash


@pytest.mark.parametrize("settings", [[], ["method.weight=1", "method.temperature=2"]], ids=["none", "kd"])
def test_without_a_tuned_argument_it_is_the_published_recipe(file, settings):
    method = "kd" if settings else "none"
    assert tuned(method, file, *settings) == compose(method, "glyphs2")


def test_with_the_arguments_of_a_preset_they_are_refused(file):
    with pytest.raises(UserError, match=r"tuned.yaml and --preset rkd-cub both choose arguments; give one of them"):
        compose(settings=with_settings(str(file)), preset="rkd-cub")


def test_saved_recipe_is_run_again_without_the_file(file, tmp_path):
    recipe = tuned("kd", file)
    saved = tmp_path / "recipe.yaml"
    saved.write_text(recipe.yaml())
    with pytest.raises(UserError, match="is a saved recipe, which has all arguments"):
        compose(config=saved, settings=with_settings(str(file)))
    file.unlink()
    assert compose(config=saved) == recipe


def test_published_is_the_default(file):
    assert compose("kd", "glyphs2", settings=with_settings("published")) == compose("kd", "glyphs2")


def test_methods_of_a_combination(file):
    recipe = tuned("kd+rkd", file)
    assert (recipe.method.arguments["kd"]["weight"], recipe.method.arguments["rkd"]["angle_weight"]) == (3.0, 9.0)
    assert recipe.settings.source == "tuned"


def test_other_images_for_validation_are_accepted(file):
    assert tuned("kd", file, "dataset.validation_fraction=0").settings.source == "tuned"


@pytest.mark.parametrize(
    ("method", "dataset", "settings", "message"),
    [
        (
            "sp",
            "glyphs2",
            [],
            r"no arguments of sp\. Tune it by `benchmark tune --methods sp --dataset glyphs2 --output",
        ),
        ("kd", "glyphs", [], "the file is of glyphs2, but the dataset is glyphs"),
        ("kd", "glyphs2", ["dataset.train_identities=90"], r"dataset\.train_identities 770, but it is 90 now"),
        ("kd", "glyphs2", ["method.preset=classification"], "both choose arguments"),
        ("kd", "glyphs2", ["settings.source=7"], "must be published or a file, not 7"),
        ("kd", "glyphs2", ["settings=absent.yaml"], r"absent\.yaml cannot be read"),
        ("none", "glyphs2", ["settings=absent.yaml"], r"absent\.yaml cannot be read"),
    ],
)
def test_rejects(file, method, dataset, settings, message):
    with pytest.raises(UserError, match=message):
        tuned(method, file, *settings, dataset=dataset)


@pytest.mark.parametrize(
    ("before", "after"),
    [("validation_mAP: 0.8", "validation_mAP: 1.8"), ("trials: 8", "trials: many"), ("weight: 3.0", "weight: [1, 2]")],
)
def test_rejects_a_changed_file(file, before, after):
    file.write_text(file.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match=f"settings {file}: "):
        tuned("kd", file)


def test_unknown_arguments_of_the_file(file):
    file.write_text(file.read_text().replace("weight: 3.0", "weihgt: 3.0"))
    with pytest.raises(UserError, match="weihgt"):
        tuned("kd", file)
