"""The test set that a recipe describes."""

import pytest
import torch

from benchmark import evaluation  # not TestSet, which pytest would take for a class of tests
from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.datasets.vehicleid import VehicleID
from benchmark.errors import UserError
from benchmark.experiment.finished import FinishedRun
from benchmark.recipe import compose

CPU = torch.device("cpu")


def test_recipe_sets_dataset_loading_and_protocol(tmp_path):
    settings = ["evaluate.ties=optimistic", "evaluate.batch_size=3", "image_size=[32,48]", "runtime.skip_broken=true"]
    recipe = compose("kd", "vehicleid", None, [*settings, "dataset.test_size=1600", "runtime.cache=cache"])
    test = evaluation.TestSet.from_recipe(recipe, tmp_path, CPU)
    assert isinstance(test.dataset, VehicleID) and test.dataset.test_size == 1600
    assert test.protocol.ties == "optimistic" and test.protocol.recall_at == test.dataset.protocol.recall_at
    loading = test.loading
    assert (test.batch_size, loading.size, loading.skip_broken, str(loading.cache)) == (3, (32, 48), True, "cache")
    assert evaluation.TestSet.from_recipe(recipe, tmp_path, CPU, (8, 8)).loading.size == (8, 8)


@pytest.mark.parametrize(("option", "expected"), [([], 7), (["dataset.seed=3"], 3)])
def test_dataset_seed_defaults_to_the_seed_of_the_run(tmp_path, option: list[str], expected: int):
    recipe = compose("kd", "vehicleid", None, option, 7)
    assert evaluation.TestSet.from_recipe(recipe, tmp_path, CPU).dataset.seed == expected


def test_finished_run_passes_its_seed_to_another_dataset(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(compose("none", "glyphs", seed=7).yaml())
    (tmp_path / "student.pt").touch()
    monkeypatch.setattr(VehicleID, "prepare", lambda self: None)
    assert FinishedRun(tmp_path, tmp_path).test_set("vehicleid", [], CPU).dataset.seed == 7


def test_settings_that_exclude_each_other(tmp_path):
    recipe = compose("kd", "cub200", None, ["evaluate.reranking.k1=4"])
    with pytest.raises(UserError, match="evaluate: reranking and query_in_gallery exclude each other"):
        evaluation.TestSet.from_recipe(recipe, tmp_path, CPU)


def test_validation_images_search_each_other(data_root):
    options = {"train_identities": 40, "test_identities": 20}
    dataset = Glyphs(data_root, **options, validation_fraction=0.25)
    validation = evaluation.TestSet(dataset, Loading((32, 32)), 128).validation()
    assert validation.query == validation.gallery == dataset.held_out
    assert validation.protocol.query_in_gallery and validation.protocol.camera_rule
    vectors = torch.nn.functional.one_hot(validation.images.identities % 97).float()
    assert validation.score_all(vectors, torch.arange(len(vectors))).mAP == 1
    assert not {sample.path for sample in dataset.query} & {sample.path for sample in validation.query}
