"""Runs in an empty folder."""

from pathlib import Path

import pytest
import torch

from benchmark.experiment.experiment import Experiment
from benchmark.recipe import Recipe
from benchmark.results.record import Record


@pytest.fixture
def run(data_root, tmp_path):
    """`run(recipe)` runs a recipe in an empty folder, or in `work`, and returns the experiment and the record."""

    def do(recipe: Recipe, work: Path = tmp_path, resume: bool = False) -> tuple[Experiment, Record]:
        experiment = Experiment(
            recipe, work_dir=work / "runs", data_root=data_root, device=torch.device("cpu"), resume=resume
        )
        return experiment, experiment.run()

    return do
