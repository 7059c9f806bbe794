"""The story of one run, from the command to the record."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark import evaluation
from benchmark.data.batch import Batch
from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.compat import QuietRunner, load_checkpoint
from benchmark.engine.train import LAST
from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.method import Method
from benchmark.model import cost
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.serialize import load_student, weights_hash
from benchmark.recipe import Recipe, compose
from benchmark.registry import METHODS
from benchmark.results.record import Record

CPU = torch.device("cpu")
BOARD = "glyphs-test_identities-20-train_identities-40"


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class Pulled(Method):
    """A method whose student embeds into its teacher's space, but for where the sizes differ."""

    aligned = True

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        size = min(student.embedding.shape[1], teacher.embedding.shape[1])
        return {"pulled": F.mse_loss(student.embedding[:, :size], teacher.embedding[:, :size])}


@pytest.fixture(scope="module", autouse=True)
def registered():
    METHODS.register_module("pulled")(Pulled)
    yield
    del METHODS.classes["pulled"]


@pytest.fixture
def run(data_root, tmp_path):
    """`run(recipe)` does it in an empty place, or in `work`; returns the experiment and the record."""

    def do(recipe: Recipe, work: Path = tmp_path, resume: bool = False) -> tuple[Experiment, Record]:
        experiment = Experiment(recipe, work / "runs", data_root, CPU, resume)
        return experiment, experiment.run()

    return do


class TestTheCommand:
    def test_leaves_the_promised_files_and_no_others(self, finished, student, teacher):
        common = {"recipe.yaml", "log.txt", "metrics.jsonl", str(LAST), "student.pt", "record.json", ".lock"}
        assert tree(student) == common | {"compression.svg"}
        assert tree(teacher) == common
        assert tree(finished / "boards" / "records") == {
            f"{BOARD}-{name}-seed0-{Record.read(folder / 'record.json').id}.json"
            for name, folder in (("cdd", student), ("teacher", teacher))
        } | {".lock"}
        assert "cdd" in (finished / "boards" / f"{BOARD}.md").read_text()

    def test_shows_an_epoch_a_line_and_ends_with_a_table(self, finished, student):
        shown = (finished / "err.txt").read_text().splitlines()
        assert not any("Traceback" in line or "Warning" in line for line in shown)
        epochs = [line.split("  loss")[0] for line in shown if "epoch" in line]
        assert epochs == [f"{who}  epoch {i}/2" for who in ("teacher", "student cdd") for i in (1, 2)]
        printed = (finished / "out.txt").read_text()
        for word in ("teacher", "student", "saved %", "mAP", "MACs", str(student.name)):
            assert word in printed

    def test_traces_the_compression(self, student):
        start, *rows = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
        record = Record.read(student / "record.json")
        assert 48 == start["channels"] > rows[0]["channels"] > rows[1]["channels"] > 4
        assert rows[0]["masked"] > 0
        assert rows[0]["macs"] > rows[1]["macs"] >= record.network.cost.macs
        assert rows[1]["parameters"] >= record.network.cost.parameters
        assert "Compression during training" in (student / "compression.svg").read_text()

    def test_records_what_the_deployed_file_does(self, student, teacher, data_root):
        record = Record.read(student / "record.json")
        network = load_student(student / "student.pt")
        size = cost.count(network, (32, 32))
        assert (record.network.cost.parameters, record.network.cost.macs) == (size.parameters, size.macs)
        assert record.network.cost.flops == 2 * size.macs
        assert record.network.weights == weights_hash(network)
        assert record.deploy.max_abs_difference < 1e-4
        assert record.deploy.images > 60
        test = evaluation.TestSet(Glyphs(data_root, train_identities=40, test_identities=20), Loading((32, 32)), 128)
        query, gallery = test.embed(network, "query"), test.embed(network, "gallery")
        scores = test.score(query, gallery)
        assert scores.mAP == pytest.approx(record.scores.symmetric.mAP, abs=1e-6)
        for found, expected in zip(record.scores.average_precision, scores.average_precision.tolist(), strict=True):
            assert found == pytest.approx(expected, abs=1e-5) or (found is None and expected != expected)
        assert record.scores.asymmetric is None
        assert (
            record.scores.asymmetric_reason == "the method does not align the embedding spaces of student and teacher"
        )

    def test_records_the_teacher_and_what_is_saved(self, student, teacher):
        record, of_teacher = Record.read(student / "record.json"), Record.read(teacher / "record.json")
        assert (record.role, of_teacher.role) == ("student", "teacher")
        assert (of_teacher.teacher, of_teacher.saved, of_teacher.budget) == (None, None, None)
        assert record.teacher.record == of_teacher.id
        assert record.teacher.scores == of_teacher.scores.symmetric
        assert record.saved.macs == 1 - record.network.cost.macs / of_teacher.network.cost.macs
        assert 0 < record.saved.macs < record.saved.ceiling_macs < 1
        assert 0 < record.saved.parameters < record.saved.ceiling_parameters < 1
        assert (record.network.name, of_teacher.network.name) == (
            "resnet14t 8-8-16-16, compressed",
            "resnet14t 8-8-16-16",
        )

    def test_is_replayed_bit_for_bit_by_its_own_recipe(self, run, student):
        before = Record.read(student / "record.json")
        _, again = run(compose(config=student / "recipe.yaml"))
        assert again.fingerprint() == before.fingerprint()
        assert again.network.weights == before.network.weights

    def test_is_not_done_twice(self, run, tiny, finished, student, shrinking, capsys):
        written = {path: path.stat().st_mtime_ns for path in student.rglob("*") if path.suffix in (".pt", ".json")}
        _, again = run(tiny("cdd", *shrinking), finished)
        assert again == Record.read(student / "record.json")
        told = " ".join(capsys.readouterr().err.split())
        assert told == f"{student} holds the result of {again.created[:10]}; delete the folder to do it again"
        assert written == {path: path.stat().st_mtime_ns for path in written}

    @pytest.mark.parametrize("method", ["cdd", "kd"])
    def test_an_earlier_result_on_other_data_is_not_taken(self, tiny, finished, data_root, shrinking, tmp_path, method):
        """Neither a student's nor a teacher's."""
        root = tmp_path / "data"
        shutil.copytree(data_root, root)
        folder = next(root.glob("glyphs-*"))
        lost = sorted((folder / "train").iterdir())[0]
        lost.unlink()
        recipe = tiny(method, *(shrinking if method == "cdd" else []))
        with pytest.raises(UserError, match=r"is of an earlier run on other data \(train: .* images then, .* now\)"):
            Experiment(recipe, finished / "runs", root, CPU, resume=False).run()


class TestTeachers:
    def test_one_teacher_serves_all_methods(self, run, tiny, finished, teacher):
        trained = (teacher / LAST).stat().st_mtime_ns
        _, record = run(tiny("kd", "seed=3"), finished)
        assert record.teacher.record == Record.read(teacher / "record.json").id
        assert (teacher / LAST).stat().st_mtime_ns == trained
        assert (record.saved.ceiling_macs, record.budget) == (None, None)

    def test_two_runs_at_once_train_it_once(self, tmp_path, command):
        processes = [
            subprocess.Popen(
                command(tmp_path, "--method", method),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for method in ("none", "kd")
        ]
        shown = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], shown
        assert sum(text.count("teacher  epoch 1/2") for text in shown) == 1
        assert len(list((tmp_path / "runs" / "glyphs" / "teacher").iterdir())) == 1
        assert len(list((tmp_path / "boards" / "records").glob("*.json"))) == 3

    @pytest.mark.parametrize("given", [".", LAST], ids=["folder", "file"])
    def test_a_given_teacher_does_what_the_trained_one_does(self, run, tiny, shrinking, student, teacher, given):
        before = Record.read(student / "record.json")
        experiment, record = run(tiny("cdd", *shrinking, f"teacher.checkpoint={teacher / given}"))
        assert record.network.weights == before.network.weights
        assert record.teacher.cost.macs == before.teacher.cost.macs
        assert record.teacher.scores == before.teacher.scores
        assert record.scores == before.scores
        assert record.teacher.record == (None if given == LAST else before.teacher.record)
        assert not (experiment.folders.work_dir / "glyphs" / "teacher").exists()

    def test_a_missing_teacher_is_named(self, run, tiny, tmp_path):
        with pytest.raises(UserError, match=r"nowhere\.pt does not exist"):
            run(tiny("kd", f"teacher.checkpoint={tmp_path / 'nowhere.pt'}"))

    def test_a_folder_without_a_finished_run_is_named(self, run, tiny, tmp_path):
        with pytest.raises(UserError, match=rf"{tmp_path}/record.json: cannot read the record"):
            run(tiny("kd", f"teacher.checkpoint={tmp_path}"))

    @pytest.mark.parametrize("other", ["no classifier", "other identities"])
    def test_a_teacher_without_a_classifier_serves_methods_that_need_none(self, run, tiny, teacher, tmp_path, other):
        weights = load_checkpoint(teacher / LAST, CPU)["student"]
        head = {"head.weight": torch.zeros(7, 16)} if other == "other identities" else {}
        torch.save({k: v for k, v in weights.items() if not k.startswith("head.")} | head, tmp_path / "teacher.pt")
        settings = ["train.schedule.epochs=1", f"teacher.checkpoint={tmp_path / 'teacher.pt'}"]
        _, record = run(tiny("pulled", *settings))
        assert record.teacher.scores.mAP == pytest.approx(Record.read(teacher / "record.json").scores.symmetric.mAP)
        with pytest.raises(UserError, match=r"kd needs the teacher's classifier, and .*\.pt has none for the 40"):
            run(tiny("kd", *settings))

    def test_a_teacher_of_another_architecture_is_refused(self, run, tiny, teacher):
        other = "teacher.network.args.channels=[8, 8, 16, 24]"
        with pytest.raises(UserError, match=r"do not fit resnet14t(.|\n)*of another shape"):
            run(tiny("kd", f"teacher.checkpoint={teacher}", other))

    def test_a_student_can_start_from_its_teacher(self, run, tiny, teacher):
        still = ("train.optimizer.lr=1e-12", "train.schedule.epochs=1")
        recipe = tiny("none", f"teacher.checkpoint={teacher}", "student.weights=teacher", *still)
        experiment, _ = run(recipe)
        ours = load_checkpoint(experiment.folder / LAST, CPU)["student"]
        theirs = load_checkpoint(teacher / LAST, CPU)["student"]
        learnt = [name for name in theirs if name.endswith("weight")]
        assert len(learnt) > 20
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-8) for name in learnt)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("student.dim=8", "student.weights: teacher needs the teacher's own architecture"),
            ("teacher.network.weights=teacher", "teacher cannot start from itself"),
        ],
    )
    def test_where_it_cannot_start_from_its_teacher_it_says_so(self, run, tiny, finished, setting, message):
        with pytest.raises(UserError, match=message):
            run(tiny("none", "student.weights=teacher", setting), finished)


class TestTheRecord:
    def test_searches_the_teachers_gallery_where_the_spaces_are_one(self, run, tiny, finished, teacher, data_root):
        experiment, record = run(tiny("pulled", "train.schedule.epochs=1"), finished)
        test = evaluation.TestSet(Glyphs(data_root, train_identities=40, test_identities=20), Loading((32, 32)), 128)
        query = test.embed(load_student(experiment.folder / "student.pt"), "query")
        gallery = test.embed(load_student(teacher / "student.pt"), "gallery")
        assert test.score(query, gallery).mAP == pytest.approx(record.scores.asymmetric.mAP, abs=1e-6)
        assert record.scores.asymmetric_reason is None

    def test_says_why_it_cannot(self, run, tiny, finished):
        _, record = run(tiny("pulled", "student.dim=8", "train.schedule.epochs=1"), finished)
        assert record.scores.asymmetric is None
        assert record.scores.asymmetric_reason == "embeddings differ in size: 8 and 16"
        assert record.network.embedding == 8

    @pytest.mark.parametrize(("target", "met"), [(0.01, False), (0.9, True)])
    def test_says_whether_a_budget_was_met(self, run, tiny, shrinking, teacher, target, met):
        budget = f"method.target_macs={target}"
        _, record = run(tiny("cdd", *shrinking, budget, f"teacher.checkpoint={teacher}"))
        assert (record.budget.kind, record.budget.target, record.budget.met) == ("macs", target, met)
        assert record.budget.reached == record.network.cost.macs / record.teacher.cost.macs
        assert (record.budget.reached <= target) == met
        if met:
            assert record.budget.reached > target - 0.02  # no more rows than it takes


class TestTrouble:
    def test_an_unfinished_run_wants_to_be_resumed(self, run, tiny, finished, monkeypatch):
        recipe = tiny("none", "seed=11")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Record, "write", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
            run(recipe, finished)
        with pytest.raises(UserError, match=r"seed11-\w+ holds an unfinished run: add --resume"):
            run(recipe, finished)
        run(recipe, finished, resume=True)

    def test_a_place_that_cannot_hold_a_run(self, run, tiny, tmp_path):
        (tmp_path / "runs").write_text("a file")
        with pytest.raises(UserError, match=r"the run's folder .*runs/glyphs/none/.* cannot be made: Not a directory"):
            run(tiny("none"))

    def test_a_folder_in_the_way_of_a_file(self, run, tiny, finished):
        recipe = tiny("none", "seed=12")
        folder = Experiment(recipe, finished / "runs", finished, CPU, False).folder
        (folder / "log.txt").mkdir(parents=True)
        with pytest.raises(UserError, match=r"log\.txt: Is a directory"):
            run(recipe, finished)

    def test_a_full_disk(self, run, tiny, finished, full_disk):
        with (
            full_disk(30_000),
            pytest.raises(UserError, match=r"last\.pt cannot be written: File too large"),
        ):
            run(tiny("none", "seed=13"), finished)

    def test_an_interruption_says_how_to_go_on(self, run, tiny, finished, monkeypatch, capsys):
        monkeypatch.setattr(Experiment, "_distil", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tiny("none", "seed=14"), finished)
        assert capsys.readouterr().err == "interrupted; the same command with --resume continues\n"


def test_packed_images_change_nothing(run, tiny, tmp_path, student):
    """Not a bit of the result, whether they are packed by this run or by an earlier one."""
    plain = Record.read(student / "record.json")
    recipe = compose(config=student / "recipe.yaml", settings=[f"runtime.cache={tmp_path / 'packed'}"])
    for work in ("first", "second"):
        _, record = run(recipe, tmp_path / work)
        assert (record.network.weights, record.scores) == (plain.network.weights, plain.scores)
        assert record.id == plain.id
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "packed").iterdir() if path.is_dir())
    assert names == ["glyphs-test-32x32", "glyphs-train-32x32"]


def test_another_rule_of_average_precision_judges_the_same_network(run, student, monkeypatch):
    """It has a board and a record of its own, and nothing is trained for it."""
    recipe = compose(config=student / "recipe.yaml")
    first, plain = run(recipe)
    monkeypatch.setattr(QuietRunner, "train", lambda _: pytest.fail("trained again"))
    again, record = run(compose(config=student / "recipe.yaml", settings=["evaluate.average_precision=trapezoid"]))
    assert again.folder == first.folder
    assert record.network.weights == plain.network.weights
    assert record.scores.symmetric.mAP != plain.scores.symmetric.mAP
    assert record.scores.symmetric.recall == plain.scores.symmetric.recall
    assert record.teacher.scores.mAP != plain.teacher.scores.mAP
    assert record.data.protocol["average_precision"] == "trapezoid"
    assert record.board == f"{plain.board}-trapezoid"
    assert record.id != plain.id
    files = {path.name for path in first.folder.iterdir()}
    assert {"record.json", f"record-{record.recipe_hash[:8]}.json"} < files
    _, replayed = run(compose(config=first.folder / f"recipe-{record.recipe_hash[:8]}.yaml"))
    assert (replayed.id, replayed.created, replayed.scores) == (record.id, record.created, record.scores)
    assert run(recipe)[1].id == plain.id


def test_a_teacher_that_was_judged_otherwise_is_judged_anew(run, tiny, finished, teacher):
    settings = [f"teacher.checkpoint={teacher}", "evaluate.average_precision=trapezoid", "train.schedule.epochs=1"]
    _, record = run(tiny("kd", *settings))
    before = Record.read(teacher / "record.json")
    assert record.teacher.record is None
    assert record.teacher.scores.mAP != before.scores.symmetric.mAP
    assert record.teacher.scores.recall == before.scores.symmetric.recall


def test_what_left_out_broken_images_is_not_taken_for_whole(run, tiny, finished, tmp_path, student, teacher):
    """Neither a run nor a teacher; with --skip-broken both are."""
    for name, folder in (("cdd", student), ("teacher", teacher)):
        target = tmp_path / "runs" / "glyphs" / name / folder.name
        shutil.copytree(folder, target)
        record = Record.read(target / "record.json")
        data = record.data.model_copy(update={"broken": 2})
        record.model_copy(update={"data": data}).write(target / "record.json")
    recipe = compose(config=student / "recipe.yaml")
    other = compose(config=student / "recipe.yaml", settings=["seed=99"])
    for wanted in (recipe, other):
        with pytest.raises(UserError, match="left out 2 broken images: add --skip-broken"):
            run(wanted)
    _, record = run(compose(config=student / "recipe.yaml", settings=["runtime.skip_broken=true"]))
    assert record.data.broken == 2


def test_the_test_set_is_decoded_once_and_embedded_in_order(data_root, tiny):
    dataset = Glyphs(data_root, train_identities=40, test_identities=20)
    test = evaluation.TestSet(dataset, Loading((32, 32)), 16)
    torch.manual_seed(0)
    network = Embedder("resnet14t", {"channels": [8] * 4, "stem_width": 8}, dim=4).eval()
    once, again = test.embed(network, "query"), test.embed(network, "query")
    whole = next(iter(evaluation.TestSet(dataset, Loading((32, 32)), 1000).loader("query")))
    with torch.no_grad():
        expected = network(whole.images)
    assert torch.allclose(once.vectors, expected, atol=1e-5)
    assert torch.equal(once.vectors, again.vectors)
    assert torch.equal(once.identities, whole.labels)
    assert torch.equal(test.example(5), whole.images[:5])
    assert len(test.example(1000)) == 16  # of the first batch
