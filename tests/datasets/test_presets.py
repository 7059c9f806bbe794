"""Every preset passes the checks of a run, and trains its teacher and student on a miniature of its dataset."""

import math
from collections.abc import Sequence

import pytest
import torch

from benchmark.data.loaders import Loading
from benchmark.engine.files import read_metrics
from benchmark.engine.train import train
from benchmark.evaluation import TestSet
from benchmark.experiment.preflight import preflight
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import build
from benchmark.recipe import Recipe, compose, find_preset, preset_names
from benchmark.registry import METHODS

NETWORK = ("backbone=resnet14t", "args={channels: [8, 8, 8, 8], stem_width: 8}", "weights=random")
TRAINING = ("schedule.epochs=2", "schedule.warmup_epochs=1", "sampler.identities=3", "sampler.images=2")
SMALL = [
    *(f"{key}.{setting}" for key in ("teacher.network", "student") for setting in NETWORK),
    *(f"{key}.{setting}" for key in ("teacher.train", "train") for setting in TRAINING),
    *("runtime.threads=1", "runtime.workers=0", "runtime.amp='off'"),
]
"""Tiny networks, batches of six images and two epochs. Images, augmentation, losses and optimizers are the preset's."""


def shrunk(name: str, settings: Sequence[str]) -> Recipe:
    """Return the recipe of a preset with tiny networks, of which the second epoch trains all parts."""
    recipe = compose(preset=name, settings=[*SMALL, *settings])
    parts = {"teacher.train": recipe.teacher.train, "train": recipe.train}
    frozen = [f"{key}.schedule.frozen_epochs=1" for key, part in parts.items() if part.schedule.frozen_epochs]
    return compose(preset=name, settings=[*SMALL, *settings, *frozen])


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
class TestPreset:
    def test_passes_the_checks(self, name):
        recipe = compose(preset=name)
        checked = preflight(recipe)
        assert checked.student.macs <= checked.teacher.macs

    def test_trains(self, name, originals, tmp_path):
        miniature = originals(find_preset(name).dataset)
        recipe = shrunk(name, miniature.settings)
        dataset = miniature.open(**recipe.dataset.arguments)
        test = TestSet(dataset, Loading(recipe.image_size, 0), recipe.evaluate.batch_size)
        torch.set_num_threads(1)

        def trained(part: Recipe, teacher: Embedder | None) -> Embedder:
            torch.manual_seed(0)
            network = build(**part.student.model_dump(exclude={"weights"}), identities=len(dataset.labels))
            if part is not recipe and part.train == recipe.train:
                return network  # its settings are tested with the student
            method = METHODS.find(part.method.name)(**part.method.arguments)
            folder = tmp_path / part.method.name
            given = teacher if method.needs.teacher else None
            train(network, given, method, recipe=part, test=test, folder=folder, resume=False, title=name)
            rows = [row for row in read_metrics(folder) if "loss" in row]
            assert len(rows) == 2
            assert all(math.isfinite(value) for row in rows for value in row.values())
            return network

        teacher = None if recipe.method.name == "none" else trained(recipe.for_teacher(), None)
        trained(recipe, teacher)


def test_dry_run_of_a_preset(originals, tmp_path, command_line):
    miniature = originals("cub200")
    settings = [part for setting in [*SMALL, "train.schedule.epochs=3"] for part in ("--set", setting)]
    places = ["--data-root", miniature.root, "--work-dir", tmp_path, "--leaderboards", tmp_path / "boards"]
    code, out, err = command_line("run", "--preset", "rkd-cub", *settings, *places, "--dry-run")
    assert code == 0, err
    assert "DistanceWeightedMiner" in out and "query: 8 images" in out
    assert "  epochs: 3" in out


def test_commands_of_a_suite_name_the_preset(originals, tmp_path, command_line):
    places = ["--data-root", originals("cub200").root, "--work-dir", tmp_path, "--leaderboards", tmp_path / "boards"]
    code, out, err = command_line("suite", "--preset", "rkd-cub", "--seeds", "0,1", *places, "--dry-run")
    assert code == 0, err
    commands = [line for line in out.splitlines() if line.startswith("benchmark run")]
    assert len(commands) == 2
    assert all("--method rkd --dataset cub200" in line and "--preset rkd-cub" in line for line in commands)
