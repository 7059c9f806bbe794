"""One run, from its recipe to its record."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import benchmark
from benchmark import evaluation
from benchmark.data.batch import Batch
from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.compat import QuietRunner, load_checkpoint
from benchmark.engine.files import INPUTS_FILE, LAST_CHECKPOINT, read_metrics
from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.folders import student_folder
from benchmark.method import Method
from benchmark.model import cost
from benchmark.model.features import Features
from benchmark.model.serialize import load_network, weights_hash
from benchmark.recipe import compose
from benchmark.registry import METHODS
from benchmark.results.consistency import violations
from benchmark.results.parts import NOT_ALIGNED
from benchmark.results.rebuild import rebuilt_violations
from benchmark.results.record import Record
from benchmark.results.rows import group_records
from benchmark.retrieval import EmbeddingFormat

CPU = torch.device("cpu")
BOARD = "glyphs-test_identities-20-train_identities-40"
SHORT = "train.schedule.epochs=1"


class Pulled(Method):
    """An aligned method that accepts embeddings of different sizes."""

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
def test_set(data_root) -> evaluation.TestSet:
    return evaluation.TestSet(Glyphs(data_root, train_identities=40, test_identities=20), Loading((32, 32)), 128)


def read(folder: Path) -> Record:
    return Record.read(folder / "record.json")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class TestFinishedRun:
    """Files and output of a finished `benchmark run`."""

    def test_files(self, finished, student, teacher):
        common = {"recipe.yaml", "log.txt", "metrics.jsonl", str(LAST_CHECKPOINT), "student.pt", "record.json", ".lock"}
        common |= {INPUTS_FILE}
        assert files(student) == common | {"compression.svg"}
        assert files(teacher) == common
        assert files(finished / "boards" / "records") == {
            f"{BOARD}-{name}-seed0-{read(folder).id}.json" for name, folder in (("cdd", student), ("teacher", teacher))
        } | {".lock"}
        assert "cdd" in (finished / "boards" / f"{BOARD}.md").read_text()

    def test_output(self, finished, student):
        messages = (finished / "err.txt").read_text().splitlines()
        assert not any("Traceback" in line or "Warning" in line for line in messages)
        assert messages[0].startswith("cdd on glyphs, seed 0: teacher resnet14t 8-8-16-16 (")
        assert messages[1] == (
            "542 training images; 2 epochs for the teacher (teacher.train.schedule.epochs) in batches of 32, 2 epochs "
            "for the student (train.schedule.epochs) in batches of 32"
        )
        assert messages[2] == "expected time: unknown until the first epoch"
        epochs = [line.split("  loss")[0] for line in messages if "  epoch " in line]
        assert epochs == [f"{name}  epoch {i}/2" for name in ("teacher", "student cdd") for i in (1, 2)]
        table = (finished / "out.txt").read_text()
        for text in ("teacher", "student", "saved %", "mAP", "MACs", str(student.name)):
            assert text in table

    def test_compression_is_traced(self, student):
        start, *rows = read_metrics(student)
        final = read(student).network.cost
        assert 48 == start["channels"] > rows[0]["channels"] > rows[1]["channels"] > 4
        assert rows[0]["masked"] > 0
        assert rows[0]["macs"] > rows[1]["macs"] >= final.macs
        assert rows[1]["parameters"] >= final.parameters
        assert "Compression during training" in (student / "compression.svg").read_text()

    def test_record_describes_the_deployed_file(self, student, test_set):
        record = read(student)
        network = load_network(student / "student.pt")
        size = cost.count(network, (32, 32))
        assert (record.network.cost.parameters, record.network.cost.macs) == (size.parameters, size.macs)
        assert record.network.cost.flops == 2 * size.macs
        assert record.network.weights == weights_hash(network)
        assert record.deploy.max_abs_difference < 1e-4
        assert record.deploy.images > 60

        scores = test_set.score(test_set.embed(network, "query"), test_set.embed(network, "gallery"))
        assert scores.mAP == pytest.approx(record.scores.symmetric.mAP, abs=1e-6)
        for stated, expected in zip(record.scores.average_precision, scores.average_precision.tolist(), strict=True):
            assert stated == pytest.approx(expected, abs=1e-5) or (stated is None and expected != expected)
        assert (record.scores.asymmetric, record.scores.asymmetric_reason) == (None, NOT_ALIGNED)

    def test_record_of_the_teacher(self, student, teacher):
        record, of_teacher = read(student), read(teacher)
        assert (record.role, of_teacher.role) == ("student", "teacher")
        assert (of_teacher.teacher, of_teacher.saved, of_teacher.budget) == (None, None, None)
        assert record.teacher.record == of_teacher.id
        assert record.teacher.scores == of_teacher.scores.symmetric
        assert record.network.name == "resnet14t 8-8-16-16, compressed"
        assert of_teacher.network.name == "resnet14t 8-8-16-16"

    def test_savings(self, student, teacher):
        record, of_teacher = read(student), read(teacher)
        assert record.saved.macs == 1 - record.network.cost.macs / of_teacher.network.cost.macs
        assert 0 < record.saved.macs < record.saved.ceiling_macs < 1
        assert 0 < record.saved.reset_ceiling_macs <= record.saved.ceiling_macs
        assert 0 < record.saved.parameters < record.saved.ceiling_parameters < 1

    @pytest.mark.slow
    def test_its_recipe_gives_a_bit_identical_result(self, run, student):
        _, again = run(compose(config=student / "recipe.yaml"))
        assert again.fingerprint() == read(student).fingerprint()
        assert again.network.weights == read(student).network.weights

    def test_it_is_not_repeated(self, run, tiny, finished, student, shrinking, capsys):
        written = {path: path.stat().st_mtime_ns for path in student.rglob("*") if path.suffix in (".pt", ".json")}
        _, again = run(tiny("cdd", *shrinking), finished)
        assert again == read(student)
        message = " ".join(capsys.readouterr().err.split())
        assert message == f"{student} has the result of {again.created[:10]}; delete the folder to run it again"
        assert written == {path: path.stat().st_mtime_ns for path in written}

    @pytest.mark.parametrize("method", ["cdd", "kd"])
    def test_other_data(self, tiny, finished, data_root, shrinking, tmp_path, method):
        """The results of a student (cdd) and of a teacher (kd) are not reused after the data have changed."""
        root = tmp_path / "data"
        shutil.copytree(data_root, root)
        lost = Glyphs(root, train_identities=40, test_identities=20).train[0]
        lost.path.unlink()
        recipe = tiny(method, *(shrinking if method == "cdd" else []))
        experiment = Experiment(recipe, work_dir=finished / "runs", data_root=root, device=CPU)
        name = rf"train/{lost.path.name}"
        with pytest.raises(
            UserError, match=rf"1 image differs from those that were rendered: {name}\. Delete the folder"
        ):
            experiment.run()


def test_running_from_python(finished, tiny_config, data_root, teacher):
    """The public function does what `benchmark run` does; the teacher of the earlier run is reused."""
    trained = (teacher / LAST_CHECKPOINT).stat().st_mtime_ns
    record = benchmark.run(
        "kd",
        "glyphs",
        config=tiny_config,
        settings=[SHORT],
        seed=3,
        data_root=data_root,
        work_dir=finished / "runs",
        leaderboards=finished / "boards-python",
        device="cpu",
    )
    assert (record.method, record.seed, record.recipe["train"]["schedule"]["epochs"]) == ("kd", 3, 1)
    assert record.teacher.record == read(teacher).id
    assert (teacher / LAST_CHECKPOINT).stat().st_mtime_ns == trained
    assert (record.saved.ceiling_macs, record.budget) == (None, None)
    assert len(list((finished / "boards-python" / "records").glob("*.json"))) == 2
    assert (finished / "boards-python" / f"{BOARD}.md").exists()


class TestTeacher:
    @pytest.mark.slow
    def test_two_processes_train_it_once(self, tmp_path, command):
        processes = [
            subprocess.Popen(
                command(tmp_path, "--method", method), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            )
            for method in ("none", "kd")
        ]
        messages = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], messages
        assert sum(text.count("teacher  epoch 1/2") for text in messages) == 1
        assert len(list((tmp_path / "runs" / "glyphs" / "teacher").iterdir())) == 1
        assert len(list((tmp_path / "boards" / "records").glob("*.json"))) == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("checkpoint", [".", LAST_CHECKPOINT], ids=["folder", "file"])
    def test_checkpoint(self, run, tiny, shrinking, student, teacher, checkpoint):
        """A given teacher gives the same student as the same teacher trained by the run."""
        before = read(student)
        experiment, record = run(tiny("cdd", *shrinking, f"teacher.checkpoint={teacher / checkpoint}"))
        assert record.network.weights == before.network.weights
        assert record.teacher.cost.macs == before.teacher.cost.macs
        assert record.teacher.scores == before.teacher.scores
        assert record.scores == before.scores
        assert record.teacher.record == (None if checkpoint == LAST_CHECKPOINT else before.teacher.record)
        assert not (experiment.folder.path.parents[1] / "teacher").exists()

    def test_folder_without_a_record(self, run, tiny, tmp_path):
        with pytest.raises(UserError, match=f"{tmp_path} is not the folder of a finished run: it has no record.json"):
            run(tiny("kd", f"teacher.checkpoint={tmp_path}"))

    @pytest.mark.parametrize(
        "head",
        [pytest.param({}, marks=pytest.mark.slow), {"head.weight": torch.zeros(7, 16)}],
        ids=["none", "other identities"],
    )
    def test_without_classifier(self, run, tiny, teacher, tmp_path, head):
        """Accepted by methods that do not need the teacher's classifier."""
        weights = load_checkpoint(teacher / LAST_CHECKPOINT, CPU)["student"]
        torch.save({k: v for k, v in weights.items() if not k.startswith("head.")} | head, tmp_path / "teacher.pt")
        settings = [SHORT, f"teacher.checkpoint={tmp_path / 'teacher.pt'}"]
        _, record = run(tiny("pulled", *settings))
        assert record.teacher.scores.mAP == pytest.approx(read(teacher).scores.symmetric.mAP)
        reason = r"kd needs the teacher's classifier, but .*\.pt has none for the 40|has no classifier"
        with pytest.raises(UserError, match=reason):
            run(tiny("kd", *settings))

    def test_other_architecture(self, run, tiny, teacher):
        other = "teacher.network.args.channels=[8, 8, 16, 24]"
        with pytest.raises(UserError, match=r"do not fit resnet14t(.|\n)*shape"):
            run(tiny("kd", f"teacher.checkpoint={teacher}", other))

    def test_student_starts_from_it(self, run, tiny, teacher):
        settings = ("train.optimizer.lr=1e-12", SHORT, f"teacher.checkpoint={teacher}", "student.weights=teacher")
        experiment, _ = run(tiny("none", *settings))
        student_weights = load_checkpoint(experiment.folder.checkpoint, CPU)["student"]
        teacher_weights = load_checkpoint(teacher / LAST_CHECKPOINT, CPU)["student"]
        learned = [name for name in teacher_weights if name.endswith("weight")]
        assert len(learned) > 20
        assert all(torch.allclose(student_weights[name], teacher_weights[name], atol=1e-8) for name in learned)


class TestRecord:
    def test_asymmetric_scores(self, run, tiny, finished, teacher, test_set):
        experiment, record = run(tiny("pulled", SHORT), finished)
        query = test_set.embed(load_network(experiment.folder.student), "query")
        gallery = test_set.embed(load_network(teacher / "student.pt"), "gallery")
        assert test_set.score(query, gallery).mAP == pytest.approx(record.scores.asymmetric.mAP, abs=1e-6)
        assert record.scores.asymmetric_reason is None
        _, in_bits = run(tiny("pulled", SHORT, "evaluate.embedding=binary"), finished)
        signs = EmbeddingFormat.parse("binary").fit(16)
        expected = test_set.score(signs.query(query), signs.gallery(gallery)).mAP
        assert in_bits.scores.asymmetric.mAP == pytest.approx(expected, abs=1e-6)

    def test_embeddings_of_different_sizes(self, run, tiny, finished):
        _, record = run(tiny("pulled", "student.dim=8", SHORT), finished)
        assert record.scores.asymmetric is None
        assert record.scores.asymmetric_reason == "embeddings differ in size: 8 and 16"
        assert record.network.embedding == 8

    def test_budget(self, run, tiny, teacher):
        settings = ("method.target_macs=0.9", SHORT, f"teacher.checkpoint={teacher}")
        _, record = run(tiny("uniform", *settings))
        assert (record.budget.kind, record.budget.target, record.budget.met) == ("macs", 0.9, True)
        assert record.budget.reached == record.network.cost.macs / record.teacher.cost.macs <= 0.9

    def test_selected_epoch(self, run, tiny, teacher):
        held_out = ("evaluate.every=1", "evaluate.epoch=best", "dataset.validation_fraction=0.2")
        experiment, record = run(tiny("none", *held_out, f"teacher.checkpoint={teacher}"))
        scores = {row["epoch"]: row["mAP"] for row in read_metrics(experiment.folder.path)}
        assert record.selected.mAP == scores[record.selected.epoch] == max(scores.values())
        assert Record.read(experiment.folder.record).selected == record.selected

    def test_scores_on_validation_images(self, run, tiny, teacher, monkeypatch):
        packed = Loading.images
        names = set()
        monkeypatch.setattr(Loading, "images", lambda *args, **options: names.add(args[2]) or packed(*args, **options))
        held_out = ("evaluate.images=validation", "dataset.validation_fraction=0.2")
        _, record = run(tiny("none", *held_out, SHORT, f"teacher.checkpoint={teacher}"))
        assert record.scores.symmetric.queries == record.data.splits["validation"].images
        assert record.board == f"{BOARD}-validation_fraction-0.2-validation"
        assert names == {"glyphs-train", "glyphs-validation"}, "no test image is read"
        assert [*violations(record), *rebuilt_violations(record)] == []

    def test_scores_on_validation_images_need_some(self, run, tiny, teacher):
        with pytest.raises(UserError, match=r"evaluate\.images: there are no validation images"):
            run(tiny("none", "evaluate.images=validation", SHORT, f"teacher.checkpoint={teacher}"))

    @pytest.mark.slow
    @pytest.mark.parametrize("met", [False, True], ids=["missed", "met"])
    def test_budget_of_pruning(self, run, tiny, shrinking, teacher, met):
        target, too_low = 0.9, () if met else ("method.threshold=1e-9",)  # which no row reaches
        settings = (f"method.target_macs={target}", *too_low, f"teacher.checkpoint={teacher}")
        _, record = run(tiny("cdd", *shrinking, *settings))
        assert record.budget.met == met == (record.budget.reached <= target)
        if met:
            assert record.budget.reached > target - 0.02, "more channels were removed than necessary"


class TestUnfinishedRun:
    def test_has_to_be_resumed(self, run, tiny, finished, monkeypatch):
        recipe = tiny("none", "seed=11", SHORT)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Record, "write", interrupt)
            run(recipe, finished)
        with pytest.raises(UserError, match=r"seed11-\w+ has an unfinished run: add --resume"):
            run(recipe, finished)
        run(recipe, finished, resume=True)

    def test_folder_cannot_be_created(self, run, tiny, tmp_path):
        (tmp_path / "runs").write_text("a file")
        with pytest.raises(UserError, match=r"the run's folder .*runs/glyphs/none/.* cannot be created: Not a direc"):
            run(tiny("none"))

    def test_file_cannot_be_written(self, run, tiny, finished):
        recipe = tiny("none", "seed=12")
        (student_folder(recipe, finished / "runs").path / "log.txt").mkdir(parents=True)
        with pytest.raises(UserError, match=r"log\.txt: Is a directory"):
            run(recipe, finished)

    def test_full_disk(self, run, tiny, finished, full_disk):
        with full_disk(30_000), pytest.raises(UserError, match=r"last\.pt cannot be written: File too large"):
            run(tiny("none", "seed=13", SHORT), finished)

    def test_broken_images_were_left_out(self, run, tiny, finished, tmp_path, student, teacher):
        """Such a result, of a student or of its teacher, is reused with `skip_broken` only."""
        for name, folder in (("cdd", student), ("teacher", teacher)):
            copy = tmp_path / "runs" / "glyphs" / name / folder.name
            shutil.copytree(folder, copy)
            content = json.loads((copy / "record.json").read_text())
            content["data"]["broken"] = 2
            (copy / "record.json").write_text(json.dumps(content))
        for changes in ([], ["seed=99"]):
            with pytest.raises(UserError, match="left out 2 broken images: add --skip-broken"):
                run(compose(config=student / "recipe.yaml", settings=changes))
        _, record = run(compose(config=student / "recipe.yaml", settings=["runtime.skip_broken=true"]))
        assert record.data.broken == 2


class TestEvaluationSettings:
    """Recipes that differ only in the evaluation share the trained networks."""

    TRAPEZOID = "evaluate.average_precision=trapezoid"

    def test_other_settings_evaluate_the_same_network(self, run, student, finished, tmp_path, monkeypatch):
        shutil.copytree(finished / "runs", tmp_path / "runs")
        monkeypatch.setattr(QuietRunner, "train", lambda _: pytest.fail("trained again"))
        first, default = run(compose(config=student / "recipe.yaml"))
        again, record = run(compose(config=student / "recipe.yaml", settings=[self.TRAPEZOID]))

        assert again.folder.path == first.folder.path
        assert record.network.weights == default.network.weights
        assert record.scores.symmetric.mAP != default.scores.symmetric.mAP
        assert record.scores.symmetric.recall == default.scores.symmetric.recall
        assert record.teacher.scores.mAP != default.teacher.scores.mAP
        assert record.data.protocol["average_precision"] == "trapezoid"
        assert (record.board, record.id == default.id) == (f"{default.board}-trapezoid", False)

        recipe = first.folder.path / f"recipe-{record.recipe_hash[:8]}.yaml"
        assert again.folder.record.name == f"record-{record.recipe_hash[:8]}.json"
        _, replayed = run(compose(config=recipe))
        assert (replayed.id, replayed.created, replayed.scores) == (record.id, record.created, record.scores)
        assert run(compose(config=student / "recipe.yaml"))[1].id == default.id

    def test_format_of_the_gallery(self, run, student, finished, tmp_path, monkeypatch, test_set):
        shutil.copytree(finished / "runs", tmp_path / "runs")
        monkeypatch.setattr(QuietRunner, "train", lambda _: pytest.fail("trained again"))
        _, default = run(compose(config=student / "recipe.yaml"))
        again, record = run(compose(config=student / "recipe.yaml", settings=["evaluate.embedding=int8"]))

        assert (default.embedding, default.bytes_per_image) == ("float32", 64)
        assert (record.embedding, record.bytes_per_image) == ("int8", 16)
        assert record.network.weights == default.network.weights
        assert (record.teacher.record, record.teacher.scores) == (default.teacher.record, default.teacher.scores)
        assert record.board == default.board and len(group_records([default, record])) == 2
        assert list(violations(record)) == list(violations(default)) == []
        assert list(rebuilt_violations(record)) == []

        network = load_network(again.folder.student)
        codec = EmbeddingFormat.parse("int8").fit(16, test_set.embed_training(network))
        query, gallery = (test_set.embed(network, split) for split in ("query", "gallery"))
        scores = test_set.score(codec.query(query), codec.gallery(gallery))
        assert record.scores.symmetric.mAP == scores.mAP != default.scores.symmetric.mAP

    @pytest.mark.slow
    def test_a_given_teacher_is_evaluated_again(self, run, tiny, teacher):
        _, record = run(tiny("kd", f"teacher.checkpoint={teacher}", self.TRAPEZOID, SHORT))
        before = read(teacher).scores.symmetric
        assert record.teacher.record is None
        assert record.teacher.scores.mAP != before.mAP
        assert record.teacher.scores.recall == before.recall


@pytest.mark.slow
def test_image_cache_does_not_change_the_result(run, tmp_path, student):
    before = read(student)
    recipe = compose(config=student / "recipe.yaml", settings=[f"runtime.cache={tmp_path / 'packed'}"])
    for work in ("fills the cache", "reads the cache"):
        _, record = run(recipe, tmp_path / work)
        assert (record.network.weights, record.scores) == (before.network.weights, before.scores)
        assert record.id == before.id
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "packed").iterdir() if path.is_dir())
    assert names == ["glyphs-test-32x32", "glyphs-train-32x32"]
