"""Suites of the networks that compressing runs have found."""

import importlib.util
from pathlib import Path

import pytest
import torch

from benchmark.errors import UserError
from benchmark.model.cost import count
from benchmark.model.fold import fold_batchnorm
from benchmark.model.residual_blocks import build, deployed_size
from benchmark.model.serialize import load_network, save_student
from benchmark.recipe import compose
from benchmark.suite.grid import Grid

IMAGES = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)


@pytest.fixture
def twins():
    spec = importlib.util.spec_from_file_location("static_twins", Path(__file__).parents[2] / "tools/static_twins.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_have_the_architecture_that_was_found(tmp_path, twins):
    recipe = compose("cdd", "glyphs2", settings=["budget=0.3"], seed=3)
    (tmp_path / "recipe.yaml").write_text(recipe.yaml())
    found = build(**recipe.student.model_dump(exclude={"weights", "inner_widths"}), inner_widths=[3, 9, 20, 31]).eval()
    save_student(fold_batchnorm(found, IMAGES), tmp_path / "student.pt", (16, 16))
    size = count(load_network(tmp_path / "student.pt"), (16, 16))

    paths = twins.write_twins(tmp_path, tmp_path)
    by_kd, by_none, by_cdd = [Grid.from_file(path).recipes() for path in paths]
    for (twin,), method in ((by_kd, "kd"), (by_none, "none")):
        assert (twin.method.name, twin.seed, twin.budget) == (method, 3, None)
        assert deployed_size(build(**twin.student.model_dump(exclude={"weights"})), (16, 16)) == size
    assert by_cdd[0].method.arguments["fixed_widths"] == [3, 9, 20, 31]
    assert by_cdd[0].student == recipe.student
    assert paths[0].read_text().startswith("# Static twin of cdd at 30 % of the MACs, trained by kd.\n")


def test_a_run_without_a_budget(tmp_path, twins):
    recipe = compose("cdd", "glyphs2", settings=["budget=null"])
    (tmp_path / "recipe.yaml").write_text(recipe.yaml())
    save_student(build(**recipe.student.model_dump(exclude={"weights"})).eval(), tmp_path / "student.pt", (16, 16))
    with pytest.raises(UserError, match="the run of cdd has no budget"):
        twins.write_twins(tmp_path, tmp_path)
