"""`benchmark tune`: proposals, rounds with stub runs, and the file of tuned arguments."""

import math
import sys

import pytest
import torch

from benchmark.commands import tune as tune_command
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.inputs import describe_data
from benchmark.methods.at import AT
from benchmark.methods.kd import KD
from benchmark.recipe.settings import TunedSettings
from benchmark.results.record import Record
from benchmark.suite.scheduler import Outcome
from benchmark.suite.tuning import Study, TuningGrid

CPU = torch.device("cpu")


def score(arguments):
    """The validation mAP of made-up trainings: highest, 0.9, at a weight of 4 and a temperature of 8."""
    distance = math.log(arguments["weight"] / 4) ** 2 + math.log(arguments["temperature"] / 8) ** 2
    return 0.9 * math.exp(-distance / 4)


DEFAULTS = {"weight": 1.0, "temperature": 2.0}


def trials(count, scores=score):
    study = Study("kd", DEFAULTS)
    for _ in range(count):
        study.tell(scores(study.ask()))
    return study


class TestStudy:
    def test_first_trial_has_the_default_arguments(self):
        assert Study("kd", DEFAULTS).ask() == DEFAULTS
        exact = {"weight": 0.71234, "temperature": 20.0}  # a dataset may set others, even outside the search space
        assert Study("kd", exact).ask() == exact

    def test_proposals_are_in_the_search_space(self):
        for trial in trials(12).trials:
            KD(**trial.arguments)
            assert all(KD.search[name].low <= value <= KD.search[name].high for name, value in trial.arguments.items())

    def test_best_trial_beats_the_defaults(self):
        study = trials(20)
        assert study.best.mAP == max(trial.mAP for trial in study.trials) > 0.8 > study.trials[0].mAP

    def test_proposals_follow_from_the_earlier_trials(self):
        first, second = trials(9), trials(9)
        assert first.trials == second.trials and first.hash == second.hash
        other = trials(9, lambda arguments: 1 - score(arguments))
        assert [trial.arguments for trial in other.trials] != [trial.arguments for trial in first.trials]
        assert other.hash != first.hash

    def test_failed_trials(self):
        study = trials(6, lambda arguments: None if arguments["weight"] == 1 else score(arguments))
        assert study.trials[0].mAP is None and study.best.mAP is not None
        assert (study.result().failed, study.result().default_mAP) == (1, None)
        assert trials(2, lambda _: None).best is None


class TestGrid:
    def test_all_stands_for_the_methods_with_a_search_space(self):
        methods = TuningGrid(methods=["all"], dataset="glyphs2", trials=1).methods
        assert "kd" in methods and "none" not in methods

    @pytest.mark.parametrize(
        ("methods", "message"),
        [
            (["none"], "none has no arguments to tune"),
            (["kd", "kd"], "kd is listed twice"),
            (["kdd"], "did you mean 'kd'"),
            ([], "no methods"),
        ],
    )
    def test_rejects_methods(self, methods, message):
        with pytest.raises(UserError, match=message):
            TuningGrid(methods=methods, dataset="glyphs2", trials=1)

    @pytest.mark.parametrize("setting", ["method.weight=2", "method.preset=classification", "method={weight: 2}"])
    def test_rejects_settings_of_tuned_arguments(self, setting):
        with pytest.raises(UserError, match=r"kd has method\.(weight|preset) tuned; leave it out"):
            TuningGrid(methods=["kd"], dataset="glyphs2", trials=1, settings=[setting])

    def test_defaults_are_those_of_the_recipe(self, tmp_path):
        config = tmp_path / "mine.yaml"
        config.write_text("method: {weight: 345.0}")
        assert TuningGrid(methods=["at"], dataset="glyphs", trials=1).study("at").ask() == {"weight": AT().weight}
        grid = TuningGrid(methods=["at"], dataset="glyphs", trials=1, config=config)
        assert grid.study("at").ask() == {"weight": 345.0}

    def test_trials_are_shortened_and_do_not_use_the_test_images(self):
        grid = TuningGrid(methods=["kd"], dataset="glyphs2", trials=1, budget=0.3)
        recipe = grid.recipe("kd", grid.changes({"weight": 3.0}))
        assert (recipe.train.schedule.epochs, recipe.evaluate.images) == (30, "validation")
        assert (recipe.budget, recipe.method.arguments["weight"]) == (0.3, 3.0)


@pytest.fixture
def runs(record, monkeypatch, data_root, tiny):
    """Replaces the runs of a round: writes made-up records, and counts them. Those of methods in `failing` fail."""

    data = describe_data(TestSet.from_recipe(tiny("none", "dataset.validation_fraction=0.2"), data_root, CPU))

    class Runs:
        def __init__(self):
            self.count = 0
            self.failing = {}

        def __call__(self, jobs, executor, console):
            executor.close()
            self.count += len(jobs)
            for job in jobs:
                recipe = job.recipe
                if recipe.method.name not in self.failing:
                    arguments = recipe.method.arguments
                    mAP = score(arguments) if recipe.method.name == "kd" else 0.5
                    made = record(recipe.method.name, mAP=mAP, recipe_hash=recipe.hash, id=job.id, data=data)
                    made.write(job.record)
            read = {job: Record.read(job.record) if job.record.exists() else None for job in jobs}
            return [Outcome(job, read[job], self.failing.get(job.recipe.method.name)) for job in jobs]

    stub = Runs()
    monkeypatch.setattr(tune_command, "run_all", stub)
    return stub


@pytest.fixture
def tune(command_line, tiny_config, data_root, tmp_path):
    """`tune("--methods", "kd")` runs the command and returns exit code, stdout and stderr."""
    places = ("--config", tiny_config, "--data-root", data_root, "--work-dir", tmp_path / "runs", "--device", "cpu")
    options = ("--dataset", "glyphs", "--set", "dataset.validation_fraction=0.2", "--output", tmp_path / "glyphs.yaml")
    return lambda *arguments: command_line("tune", *options, *arguments, *places)


def test_writes_the_best_arguments(tune, runs, tmp_path):
    code, out, err = tune("--methods", "kd,sp", "--trials", "6")
    assert code == 0, err
    assert runs.count == 12 and "trial 6 of 6" in out
    content = TunedSettings.read(tmp_path / "glyphs.yaml")
    assert list(content.methods) == ["kd", "sp"]
    kd = content.methods["kd"]
    assert kd.validation_mAP == pytest.approx(score(kd.arguments)) and kd.validation_mAP > kd.default_mAP
    assert (content.tuning.trials, content.tuning.dataset) == (6, "glyphs")
    assert content.tuning.changes == ["dataset.validation_fraction=0.2"]


def test_continues_where_it_was(tune, runs, tmp_path):
    assert tune("--methods", "kd", "--trials", "3")[0] == 0
    (tmp_path / "glyphs.yaml").unlink()
    runs.count = 0
    assert tune("--methods", "kd", "--trials", "5")[0] == 0
    assert runs.count == 2
    continued = (tmp_path / "glyphs.yaml").read_text()
    (tmp_path / "glyphs.yaml").unlink()
    assert tune("--methods", "kd", "--trials", "5", "--jobs", "1")[0] == 0
    assert (tmp_path / "glyphs.yaml").read_text() == continued


def test_methods_are_added_to_the_file(tune, runs, tmp_path):
    for method in ("sp", "kd"):
        assert tune("--methods", method, "--trials", "2")[0] == 0
    assert list(TunedSettings.read(tmp_path / "glyphs.yaml").methods) == ["kd", "sp"]
    runs.count = 0
    code, _, err = tune("--methods", "kd", "--trials", "3")
    assert code == 2 and "the file is of a tuning with trials 2, but this one has 3" in err
    assert runs.count == 0, "it is refused before the first trial"


def test_methods_whose_trials_all_fail_are_reported(tune, runs, tmp_path):
    runs.failing = {"kd": "exit status 2: benchmark: the loss is not finite"}
    code, out, _ = tune("--methods", "kd,sp", "--trials", "2")
    assert code == 1 and "kd: all trials failed" in out
    assert list(TunedSettings.read(tmp_path / "glyphs.yaml").methods) == ["sp"]


def test_a_trial_that_is_killed_ends_the_tuning(tune, runs, tmp_path):
    runs.failing = {"kd": "killed by SIGKILL: as happens when memory runs out"}
    code, _, err = tune("--methods", "kd,sp", "--trials", "2")
    assert code == 2 and "Repeat the command to continue" in err and "SIGKILL" in err
    runs.failing, runs.count = {}, 0
    assert tune("--methods", "kd,sp", "--trials", "2")[0] == 0
    assert runs.count == 3


def test_needs_validation_images(tune, runs):
    code, _, err = tune("--methods", "kd", "--trials", "2", "--set", "dataset.validation_fraction=0")
    assert code == 2 and "tune: there are no validation images" in err


def test_missing_optuna(tune, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = tune("--methods", "kd")
    assert code == 2 and "pip install 'retrieval-distill-benchmark[tune]'" in err


@pytest.mark.slow
def test_trains_and_reuses_the_arguments(command_line, tiny_config, data_root, tmp_path):
    where = ("--data-root", data_root, "--work-dir", tmp_path / "runs", "--device", "cpu")
    file = tmp_path / "tuned.yaml"
    options = ("--methods", "sp", "--trials", "2", "--epochs", "1", "--set", "dataset.validation_fraction=0.2")
    code, _, err = command_line(
        "tune", "--dataset", "glyphs", *options, "--output", file, "--config", tiny_config, *where
    )
    assert code == 0, err
    sizes = ("--set", "dataset.train_identities=40", "--set", "dataset.test_identities=20")
    run = ("run", "--method", "sp", "--dataset", "glyphs", "--settings", file, "--dry-run", *sizes)
    code, out, err = command_line(*run, *where)
    assert code == 0, err
    arguments = TunedSettings.read(file).methods["sp"].arguments
    assert f"weight: {arguments['weight']}" in out and "source: tuned" in out
