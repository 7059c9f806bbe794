"""Recipes and runs with several teachers."""

import json
from types import SimpleNamespace

import pytest
import timm
import torch

from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.finished import FinishedRun
from benchmark.experiment.inputs import weight_files
from benchmark.experiment.preflight import preflight
from benchmark.recipe import compose, replay, use_teacher
from benchmark.registry import METHODS
from benchmark.results.board import Board
from benchmark.results.consistency import violations
from benchmark.results.console import conclusion, result_table
from benchmark.results.rebuild import rebuilt_violations
from benchmark.results.record import Record
from benchmark.results.rows import group_records
from benchmark.suite.job import Job, RunOptions

VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
SMALLER = "{seed: 1, network: {dim: 24, image_size: [24, 24]}}"
REACHABLE = {
    "slimming": ("method.target_macs=0.9",),
    "uniform": ("method.target_macs=0.9",),
    "whiten_mtd+slimming": ("method.slimming.target_macs=0.9",),
}
"""Budgets that the tiny student can reach."""
TWO = f"teacher=[{{}}, {SMALLER}]"


class TestRecipe:
    def test_entries_are_merged_over_the_teacher_of_the_dataset(self):
        recipe = compose("unic", "market1501", {"teacher": [{"seed": 1}, {"network": {"dim": 64}}]})
        plain = compose("unic", "market1501")
        first, second = recipe.teachers
        assert first == plain.teacher.model_copy(update={"seed": 1})
        assert second.network == plain.teacher.network.model_copy(update={"dim": 64})
        assert second.train == plain.teacher.train

    def test_backbone_of_an_entry_gets_the_options_that_it_supports(self):
        network = {"backbone": "vit_tiny_patch16_224", "neck": "none"}
        _, second = compose("unic", "glyphs2", {"teacher": ["train", {"frozen": True, "network": network}]}).teachers
        assert (second.network.args, second.network.stem, second.checkpoint) == (
            {"img_size": [16, 16]},
            "imagenet",
            None,
        )

    def test_names(self, tmp_path):
        network = {"backbone": "resnet34", "args": {}, "dim": 8, "weights": "random"}
        (tmp_path / "recipe.yaml").write_text(json.dumps({"student": network}))
        trained, file, folder = compose(
            "unic", "glyphs2", settings=use_teacher(["train", "a.pth", str(tmp_path)])
        ).teachers
        built_in = compose("unic", "glyphs2").teacher
        assert trained == built_in.model_copy(update={"checkpoint": None})
        assert file == built_in.model_copy(update={"checkpoint": "a.pth"})
        assert (folder.checkpoint, folder.network.backbone, folder.network.dim) == (str(tmp_path), "resnet34", 8)
        assert folder.network.args == {}
        assert use_teacher(["a.pth"]) == use_teacher("a.pth") == ['teacher.checkpoint="a.pth"']

    def test_is_saved_and_read_again(self, tiny):
        recipe = tiny("unic", TWO)
        assert replay(json.loads(json.dumps(recipe.recorded())), "a record").hash == recipe.hash
        assert compose(config=json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe

    def test_hash(self, tiny):
        """That of one teacher is the same as before; keys that will be added later are left out of each entry."""
        one, two = tiny("unic"), tiny("unic", TWO)
        assert "more_teachers" not in one.recorded()
        assert one.hash != two.hash
        assert [part.hash for part in two.per_teacher()] == [one.hash, tiny("unic", f"teacher=[{SMALLER}]").hash]
        recorded = two.recorded()
        del recorded["more_teachers"][0]["train"]["ema"], recorded["more_teachers"][0]["frozen"]
        assert replay(recorded, "a record").hash == two.hash

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("teacher=[]", r"teacher in --set: \[\]: the entries of a list must be sections, or the names of teachers"),
            ("teacher=[1]", r"teacher in --set: \[1\]: the entries"),
            ("more_teachers=2", r"more_teachers in --set: should be a list, not 2"),
            (
                "teacher=[{}, {network: {dims: 1}}]",
                r"more_teachers\.0\.network\.dims in --set: unknown key; did you mean more_teachers\.0\.network\.dim\?",
            ),
        ],
    )
    def test_mistakes(self, setting, message):
        with pytest.raises(UserError, match=message):
            compose("unic", "glyphs2", settings=[setting])


class TestPreflight:
    @pytest.mark.parametrize("name", [*METHODS.names(), "whiten_mtd+unic", "whiten_mtd+kd", "whiten_mtd+slimming"])
    def test_every_method_takes_several_or_refuses_them(self, name, tiny):
        recipe = tiny(name, TWO, *REACHABLE.get(name, ()))
        if METHODS.find(name)(**recipe.method.arguments).needs.takes_several:
            assert len(preflight(recipe).teachers) == 2
            return
        with pytest.raises(UserError) as refused:
            preflight(recipe)
        assert str(refused.value) == (
            f"teacher: {name} takes one teacher, not 2: leave one, or choose a method that takes several: phi_s, unic, "
            "whiten_mtd"
        )

    def test_methods_that_compress_by_a_teacher_refuse_several(self, tiny):
        with pytest.raises(UserError, match="teacher: cdd takes one teacher, not 2"):
            preflight(tiny("cdd", TWO))

    def test_arguments_decide(self, tiny):
        with pytest.raises(UserError, match="teacher: phi_s takes one teacher, not 2"):
            preflight(tiny("phi_s", "method.head=false", TWO))

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ("{}", r"^more_teachers\.0: the same teacher as teacher: change one of them"),
            ("{network: {backbone: resnet1}}", r"^more_teachers\.0\.network: unknown backbone|resnet1"),
            ("gone.pth", r"^more_teachers\.0\.checkpoint: gone\.pth does not exist"),
            (
                "{frozen: true, network: {weights: imagenet}}",
                r"^more_teachers\.0\.network\.neck: linear: .*: add more_teachers\.0\.network\.neck=none, so",
            ),
            ("{train: {sampler: {identities: 3}}}", r"^more_teachers\.0\.train\.sampler: a batch of 12"),
            ("{train: {augment: {pad: 4000}}}", r"^more_teachers\.0\.train\.augment\.pad: 4000 pixels"),
        ],
    )
    def test_mistakes_in_a_later_teacher_are_named(self, second, message, tiny, monkeypatch):
        processes = 8 if "sampler" in second else 1
        monkeypatch.setattr("benchmark.experiment.preflight.launch", lambda: SimpleNamespace(processes=processes))
        with pytest.raises(UserError, match=message):
            preflight(tiny("unic", f"teacher=[{{}}, {second}]"))

    def test_dry_run(self, command_line, tiny_config, data_root, tmp_path):
        places = ("--data-root", data_root, "--work-dir", tmp_path / "runs", "--leaderboards", tmp_path / "boards")
        run = ("run", "--config", tiny_config, "--dataset", "glyphs", *places, "--dry-run", "--set", TWO)
        refused = command_line(*run, "--method", "kd")
        assert (refused.code, refused.out) == (2, "")
        assert "teacher: kd takes one teacher, not 2" in refused.err
        shown = command_line(*run, "--method", "unic", "--device", "cpu")
        assert shown.code == 0, shown.err
        assert shown.out.count("teacher: resnet14t") == 2


def test_files_of_all_teachers_belong_to_the_inputs(tiny, tmp_path):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text(name)
    recipe = tiny("unic", f"teacher=[{tmp_path / 'a.pth'}, {tmp_path / 'b.pth'}]")
    assert weight_files(recipe).keys() == {"teacher.checkpoint", "more_teachers.0.checkpoint"}
    assert len(set(weight_files(recipe).values())) == 2


@pytest.mark.slow
def test_run(tiny, data_root, tmp_path, capsys):
    """A trained and a frozen teacher with other image sizes and embedding sizes; each has its own record."""
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT).state_dict(), tmp_path / "vit.pth")
    network = {
        "backbone": "vit_tiny_patch16_224",
        "args": VIT,
        "neck": "none",
        "stem": "imagenet",
        "dim": 24,
        "weights": str(tmp_path / "vit.pth"),
    }
    frozen = json.dumps({"frozen": True, "network": network})
    places = {"work_dir": tmp_path / "runs", "data_root": data_root, "device": torch.device("cpu")}
    recipe = tiny("whiten_mtd", "method.dim=8", "method.fit_images=64", f"teacher=[{SMALLER}, {frozen}]")
    experiment = Experiment(recipe, **places)
    record = experiment.run()
    printed = capsys.readouterr().err
    assert "training images; teacher 2 is not trained, 2 epochs for the teacher (teacher.train" in printed
    teachers = [Record.read(folder.record) for folder in experiment.teacher_folders]
    assert [each.record for each in record.teachers] == [each.id for each in teachers]
    assert [each.scores for each in record.teachers] == [each.scores.symmetric for each in teachers]
    assert [each.network for each in record.teachers] == ["resnet14t 8-8-16-16 at 24x24", "vit_tiny_patch16_224"]
    assert record.saved.macs == 1 - record.network.cost.macs / record.teacher.cost.macs
    for each in (record, *teachers):
        assert [*violations(each), *rebuilt_violations(each)] == []
    lost = record.model_copy(update={"more_teachers": ()})
    assert [violation.field for violation in rebuilt_violations(lost)] == ["more_teachers"]

    alone = Experiment(tiny("kd", f"teacher=[{SMALLER}]"), **places)
    assert alone.teacher_folder == experiment.teacher_folder, "a teacher is shared, whatever the others"
    assert FinishedRun(experiment.folder.path, data_root).teacher(experiment.test).dim == 24

    rows = group_records([record, *teachers])
    board = Board(rows, None)
    assert len({row.board for row in rows}) == 1
    assert len(board.table.rows) == 4  # two teachers, `none` and the student
    names = [str(cell) for cell in result_table(record).columns[0].cells]
    assert names == ["teacher 1", "teacher 2", "student"]
    sentence = conclusion(record, rows)
    assert "of the first teacher's MACs" in sentence
    assert all(f"the {each}" not in sentence and each in sentence for each in ("teacher 1", "teacher 2"))


def test_job_of_a_suite_counts_every_teacher_once(tiny_config, tmp_path):
    recipe = compose("unic", "glyphs", tiny_config, [TWO])
    options = RunOptions(device="cpu", data_root=tmp_path, work_dir=tmp_path / "runs", leaderboards=tmp_path / "boards")
    job = Job.of(recipe, options, config=tiny_config, settings=[TWO])
    assert len(set(job.teacher_records)) == 2
    assert job.trainings == {job.record.parent: 2, **{record.parent: 2 for record in job.teacher_records}}
