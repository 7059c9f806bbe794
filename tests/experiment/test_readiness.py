"""What is checked before the first image is read, and what a run prints first."""

import json
import os
import shutil

import pytest
import torch

from benchmark.data import batch_loader
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.checkpoint import training_hash
from benchmark.engine.compat import save_checkpoint
from benchmark.errors import UserError
from benchmark.experiment import readiness
from benchmark.experiment.experiment import Experiment
from benchmark.experiment.folders import RunFolder
from benchmark.experiment.overview import duration, first_lines
from benchmark.experiment.readiness import Training, require_method, require_ready, require_record_store
from benchmark.model import pretrained
from benchmark.model.cost import Size
from benchmark.model.pretrained import require_pretrained
from benchmark.utils.writable import require_output, require_writable


class Named:
    """Stands in for a dataset."""

    name = "own"
    evaluation_options = ()
    validation_fraction = 0.0
    train = range(40)

    def __init__(self, identities: int) -> None:
        self.labels = dict.fromkeys(range(identities))


@pytest.fixture
def trainings(tiny, tmp_path, monkeypatch):
    """`trainings("train.schedule.epochs=1")` returns the trainings of teacher and student."""

    monkeypatch.setattr(readiness, "require_method", lambda recipe, dataset: None)  # needs images

    def build(*settings: str, parameters: int = 1000) -> list[Training]:
        recipe = tiny("kd", *settings)
        return [
            Training(role=role, recipe=each, folder=RunFolder(tmp_path / role / "seed0"), size=Size(parameters, 1))
            for role, each in (("teacher", recipe.for_teacher()), ("student", recipe))
        ]

    return build


class TestTrainings:
    def test_possible(self, trainings):
        assert require_ready(trainings(), Named(8)) == []

    def test_scores_during_the_training_need_validation_images(self, trainings):
        with pytest.raises(UserError, match=r"evaluate\.every: there are no validation images"):
            require_ready(trainings("evaluate.every=1"), Named(8))
        with pytest.raises(UserError, match=r"evaluate\.epoch: best: nothing is validated"):
            require_ready(trainings("evaluate.epoch=best"), Named(8))

    def test_format_of_embeddings_needs_training_images(self, trainings):
        assert require_ready(trainings("evaluate.embedding=pq:4x5"), Named(8)) == []
        with pytest.raises(UserError, match=r"evaluate\.embedding: pq:4x6: takes at least 64 training images to learn"):
            require_ready(trainings("evaluate.embedding=pq:4x6"), Named(8))

    def test_sampler_that_cannot_be_filled(self, trainings):
        """Both keys are named, because the teacher has its own sampler."""
        with pytest.raises(UserError) as raised:
            require_ready(trainings("train.sampler.identities=9"), Named(7))
        assert str(raised.value).splitlines() == [
            f"{key}.sampler.identities: a batch of {wanted} identities cannot be drawn from the 7 training identities "
            "of own: set it to 7 or fewer"
            for key, wanted in (("teacher.train", 8), ("train", 9))
        ]
        with pytest.raises(UserError, match="own has 1 training identities: at least 2 are needed"):
            require_ready(trainings(), Named(1))

    @pytest.mark.parametrize(
        ("settings", "warning"),
        [
            (
                ["train.schedule.warmup_epochs=10"],
                "train.schedule: the whole training of the student is warm-up (2 of 10",
            ),
            (
                ["teacher.train.schedule.warmup_epochs=2"],
                "teacher.train.schedule: the whole training of the teacher is",
            ),
            (["train.schedule.constant_until=3"], "train.schedule: the learning rate of the student never decays"),
        ],
    )
    def test_schedule_without_effect(self, trainings, settings, warning):
        (found,) = require_ready(trainings(*settings), Named(8))
        assert found.startswith(warning)

    def test_checkpoint_of_another_run(self, trainings):
        student = trainings()[1]
        save_checkpoint({"epoch": 1}, student.folder.checkpoint)
        with pytest.raises(UserError, match=r"last\.pt is not the checkpoint of a training"):
            require_ready([student], Named(8))

    def test_full_disk(self, trainings, monkeypatch):
        """SGD with momentum keeps two values per parameter, and two checkpoints exist while one is written."""
        needed = 2 * 2 * 4 * 2 * 1_000_000
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, needed))
        with pytest.raises(
            UserError, match=r"31 MiB free, but this run needs at least 32 MiB: free .* another --work-dir"
        ):
            require_ready(trainings(parameters=1_000_000), Named(8))

    def test_space_for_the_outputs_of_the_teacher(self, trainings, monkeypatch, tmp_path):
        """Unless some of this number of views are there, of which the training may use one."""
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 2**22))
        both = trainings("teacher.cached_views=300")  # of 40 images with 64 + 16 + 8 values
        require_ready(trainings(), Named(8))
        with pytest.raises(UserError, match=r"4 MiB free, but this run needs at least 5 MiB"):
            require_ready(both, Named(8))
        (tmp_path / "teacher-outputs" / "300-views-0123456789ab").mkdir(parents=True)
        require_ready(both, Named(8))

    def test_shared_memory(self, trainings, monkeypatch):
        """The largest batch counts: 128 images of the evaluation, 32 x 32 in three bytes."""
        monkeypatch.setattr(batch_loader, "_free_shared_memory", lambda: 2_000_000)
        (warning,) = require_ready(trainings("runtime.workers=2"), Named(8))
        assert warning.startswith("2 loader workers need 4 MB of shared memory, but /dev/shm has 2 MB left: using")
        monkeypatch.setattr(batch_loader, "_free_shared_memory", lambda: 1000)
        with pytest.raises(UserError, match=r"^runtime\.workers: 2 loader workers need .*, or set runtime\.workers=0"):
            require_ready(trainings("runtime.workers=2"), Named(8))

    def test_pretrained_weights(self, trainings, monkeypatch):
        def missing(backbone):
            raise UserError(f"no weights of {backbone}")

        monkeypatch.setattr(readiness, "require_pretrained", missing)
        with pytest.raises(UserError, match=r"^student\.weights: no weights of resnet14t$"):
            require_ready(trainings("student.weights=imagenet"), Named(8))


class TestPretrainedWeights:
    def test_backbone_without_any(self):
        with pytest.raises(UserError, match="timm has no pretrained weights for resnet26t_nothing"):
            require_pretrained("resnet26t_nothing")

    def test_cached(self, monkeypatch):
        monkeypatch.setattr(pretrained, "_in_hub_cache", lambda repository: True)
        assert require_pretrained("resnet18") is None

    @pytest.mark.parametrize(
        ("offline", "reachable", "message"),
        [
            (True, True, "HF_HUB_OFFLINE forbids downloading them: unset it"),
            (False, False, "the server cannot be reached: connect it, copy the cache of a machine that has them"),
            (False, True, None),
        ],
    )
    def test_not_cached(self, monkeypatch, offline, reachable, message):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(pretrained, "_in_hub_cache", lambda repository: False)
        monkeypatch.setattr(pretrained, "_reachable", lambda address: reachable)
        if message is None:
            assert require_pretrained("resnet18").startswith(
                "the pretrained weights of resnet18 will be downloaded from"
            )
        else:
            with pytest.raises(UserError, match=f"resnet18 .* are not on this machine, and {message}"):
                require_pretrained("resnet18")


class TestStore:
    def test_usable(self, record, tmp_path):
        require_record_store(tmp_path / "boards")
        assert not (tmp_path / "boards").exists(), "nothing is written"

    def test_corrupt_record(self, tmp_path):
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "foreign.json").write_text("{")
        with pytest.raises(UserError, match=r"foreign\.json.*\nThe pages of the leaderboards cannot be generated"):
            require_record_store(tmp_path)

    def test_file_in_the_way(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="file: Not a directory; choose another --leaderboards"):
            require_record_store(tmp_path / "file" / "boards")
        for name, target in {"loop": "loop", "dangling": "nothing"}.items():
            (tmp_path / name).symlink_to(tmp_path / target)
            with pytest.raises(UserError, match=f"{name}: Not a directory; choose another --work-dir"):
                require_writable(tmp_path / name / "glyphs", "--work-dir")

    def test_folder_that_is_not_writable(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write anywhere
        with pytest.raises(UserError, match=f"{tmp_path}: Permission denied; make the folder writable"):
            require_writable(tmp_path / "new", "--work-dir")
        with pytest.raises(UserError, match=f"{tmp_path}: Permission denied; .* another --output"):
            require_output(tmp_path / "new" / "scores.json")

    def test_folder_in_place_of_a_file(self, tmp_path):
        require_output(tmp_path / "new" / "scores.json")
        with pytest.raises(UserError, match=f"--output {tmp_path}: is a folder; name a file in it"):
            require_output(tmp_path)


class TestMethod:
    """A method is prepared with untrained networks before its teacher is trained."""

    @pytest.fixture
    def dataset(self, data_root):
        return Glyphs(data_root, train_identities=40, test_identities=20)

    def test_possible(self, tiny, dataset, shrinking):
        before = torch.get_rng_state()
        require_method(tiny("cdd", *shrinking), dataset)
        assert torch.equal(torch.get_rng_state(), before)

    def test_weight_that_cannot_be_derived(self, tiny, dataset):
        recipe = tiny("cdd", "train.optimizer.lr=1e-300", "train.optimizer.weight_decay=1e-5")
        with pytest.raises(UserError, match="cdd: `lasso: auto` has no value for the learning rates of steps"):
            require_method(recipe, dataset)


class TestFirstLines:
    SIZES = (Size(2_000_000, 1), Size(1_000_000, 1))

    def lines(self, recipe, trainings: list[Training]) -> list[str]:
        return first_lines(recipe, trainings, self.SIZES, 14_000, "cpu", 2)

    def test_unknown_time(self, trainings):
        both = trainings()
        assert self.lines(both[1].recipe, both) == [
            "kd on glyphs, seed 0: teacher resnet14t 8-8-16-16 (2.00 M parameters), student resnet14t 8-8-16-16 "
            "(1.00 M parameters)",
            "14,000 training images; 2 epochs for the teacher (teacher.train.schedule.epochs) in batches of 32, 2 "
            "epochs for the student (train.schedule.epochs) in batches of 32",
            "expected time: unknown until the first epoch",
        ]

    def test_time_by_finished_epochs_and_earlier_runs(self, trainings, record):
        both = teacher, student = trainings("train.schedule.epochs=4")
        student.folder.path.mkdir(parents=True)
        (student.folder.path / "metrics.jsonl").write_text('{"epoch": 1, "seconds": 100.0}\n')
        assert self.lines(student.recipe, both)[2] == (
            "expected time: teacher unknown until its first epoch, student about 5.0 minutes, plus the evaluation"
        )

        content = record("none", role="teacher").model_dump(mode="json")
        content["recipe"] = teacher.recipe.model_dump(mode="json")
        earlier = teacher.folder.path.parent / "seed1"
        earlier.mkdir(parents=True)
        (earlier / "record.json").write_text(json.dumps(content))  # 200 seconds for two epochs
        (earlier / "record-damaged.json").write_text("{")
        assert self.lines(student.recipe, both)[2] == (
            "expected time: about 8.3 minutes (teacher about 3.3 minutes, student about 5.0 minutes), plus the "
            "evaluation"
        )
        assert "unknown until its first epoch" in first_lines(student.recipe, both, self.SIZES, 14_000, "cpu", 1)[2]

    def test_fixed_views(self, trainings):
        both = trainings("teacher.cached_views=2")
        line = "2 fixed views of every image for the student: 28,000 forward passes of the teacher, once for all runs"
        assert self.lines(both[1].recipe, both)[1].endswith(line)
        assert "fixed view" not in self.lines(both[1].recipe, both[:1])[1]

    def test_teacher_that_is_not_trained(self, trainings):
        student = trainings()[1]
        assert "; the teacher is trained already, 2 epochs for the student" in self.lines(student.recipe, [student])[1]
        given = student.recipe.teacher.model_copy(update={"checkpoint": "their.pt"})
        recipe = student.recipe.model_copy(update={"teacher": given})
        assert "; the teacher is loaded from their.pt, 2 epochs" in self.lines(recipe, [student])[1]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.4, "0 seconds"), (90, "90 seconds"), (150, "2.5 minutes"), (7100, "118 minutes"), (180_000, "2.1 days")],
    )
    def test_duration(self, seconds, text):
        assert duration(seconds) == text


class TestRehearsal:
    """`--dry-run` refuses what a run refuses."""

    @pytest.fixture
    def experiment(self, tiny, data_root, tmp_path):
        def build(*settings: str, resume: bool = False) -> Experiment:
            places = {"work_dir": tmp_path / "runs", "data_root": data_root, "device": torch.device("cpu")}
            return Experiment(tiny("none", *settings), **places, resume=resume)

        return build

    @pytest.mark.parametrize("start", ["rehearse", "run"])
    def test_refusals(self, experiment, start):
        with pytest.raises(UserError, match=r"^train\.sampler\.identities: a batch of 50 identities"):
            getattr(experiment("train.sampler.identities=50"), start)()
        unfinished = experiment()
        content = {"recipe": training_hash(unfinished.recipe, type(unfinished.dataset))}
        save_checkpoint(content, unfinished.folder.checkpoint)
        with pytest.raises(UserError, match="has an unfinished run: add --resume to continue it"):
            getattr(unfinished, start)()
        with pytest.raises(UserError, match="is not the checkpoint of a training"):
            getattr(experiment(resume=True), start)()

    def test_writes_nothing(self, experiment, tmp_path, capsys):
        experiment().rehearse()
        assert not (tmp_path / "runs").exists()
        assert capsys.readouterr().err.startswith("none on glyphs, seed 0: ")
