"""Training: what is logged and kept, what may not change the result, and how an interrupted training is resumed."""

import copy
import multiprocessing
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmark.data.batch import PKBatchSampler
from benchmark.engine.checkpoint_hook import CheckpointHook
from benchmark.engine.compat import load_checkpoint
from benchmark.engine.files import LAST_CHECKPOINT, read_metrics
from benchmark.engine.hooks import RetrievalMetric
from benchmark.errors import UserError
from benchmark.methods.cdd import CDD
from benchmark.methods.kd import KD
from benchmark.methods.none import NoDistillation

CPU = torch.device("cpu")
# Settings of CDD that remove channels after each of the first epochs.
SHRINKING = ("method.lasso=0.003", "method.threshold=0.95", "method.reset_from=0.1")
HELD_OUT = "dataset.validation_fraction=0.2"


def without_times(folder: Path) -> list[dict[str, float]]:
    """The metrics that do not depend on the clock."""
    return [{key: row[key] for key in row.keys() - {"seconds", "images_per_second"}} for row in read_metrics(folder)]


def identical(first, second) -> bool:
    """Whether two trained students are bit-identical."""
    pairs = zip(first.student.state_dict().items(), second.student.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def interrupted(method, epoch: int):
    """The method, which raises KeyboardInterrupt after training an epoch, before the epoch is saved."""
    original = method.after_epoch

    def after_epoch(student, progress):
        if progress.epoch == epoch:
            raise KeyboardInterrupt
        return original(student, progress)

    method.after_epoch = after_epoch
    return method


class Draws(NoDistillation):
    """A method whose loss is random."""

    def loss(self, student, teacher, batch):
        return {"noise": (student.embedding * torch.randn_like(student.embedding)).mean()}


class TestLog:
    def test_metrics_and_a_line_per_epoch(self, tiny, train_tiny, tmp_path, capsys):
        train_tiny(tiny("kd", "train.task.triplet.from_epoch=2"), tmp_path)
        metrics = read_metrics(tmp_path)
        assert [row["epoch"] for row in metrics] == [1, 2]
        for row in metrics:
            terms = [value for key, value in row.items() if key.startswith("loss_")]
            assert row["loss"] == pytest.approx(sum(terms), rel=1e-4)
            assert row["images_per_second"] > 0
        assert ["loss_triplet" in row for row in metrics] == [False, True]

        # On a slow machine there are other lines, too, such as a progress bar of the image cache.
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tiny")]
        assert [line[: len("tiny  epoch 1/2")] for line in lines] == [f"tiny  epoch {i}/2" for i in (1, 2)]
        assert all(re.search(r"loss \d.*lr \d.*images/s.*eta \d", line) for line in lines)
        assert "epoch 2/2" in (tmp_path / "log.txt").read_text()

    def test_bar_on_a_terminal_is_removed_at_the_end(self, tiny, train_tiny, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tiny("none"), tmp_path, method=interrupted(NoDistillation(), epoch=2))
        output = capsys.readouterr().err
        assert "tiny 1/2" in output
        assert "32/32" in output
        assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor is not shown again"

    def test_method_report(self, tiny, train_tiny, tmp_path):
        """The first row has the values before the first step."""
        recipe = tiny("cdd", "runtime.tensorboard=true", "evaluate.every=1", HELD_OUT)
        train_tiny(recipe, tmp_path)
        start, *trained = read_metrics(tmp_path)
        assert (start["epoch"], start["channels"], start["masked"]) == (0, 48, 0)
        assert start["macs"] == trained[0]["macs"]
        assert "loss" not in start

        (events,) = (tmp_path / "tensorboard").rglob("events.out.tfevents.*")
        reader = EventAccumulator(str(events)).Reload()
        for name in ("loss", "loss_kl", "lr", "channels", "macs", "mAP"):
            assert [event.step for event in reader.Scalars(name)] == [1, 2]
            assert [event.value for event in reader.Scalars(name)] == pytest.approx([row[name] for row in trained])

    def test_validation(self, tiny, train_tiny, tmp_path, capsys):
        """Every `evaluate.every` epochs and after the last; the training is the same with and without."""
        recipe = tiny("none", "train.schedule.epochs=3", "evaluate.every=2", HELD_OUT)
        with_validation = train_tiny(recipe, tmp_path / "with")
        metrics = read_metrics(tmp_path / "with")
        assert [row["epoch"] for row in metrics if "mAP" in row] == [2, 3]
        assert all(0 < row["mAP"] < 1 and 0 < row["R@1"] < 1 for row in metrics if "mAP" in row)
        assert capsys.readouterr().err.count("mAP") == 2
        without = train_tiny(tiny("none", "train.schedule.epochs=3", HELD_OUT), tmp_path / "without")
        assert identical(with_validation, without)


class TestResume:
    @pytest.mark.slow
    def test_across_structural_changes(self, tiny, train_tiny, tmp_path):
        recipe = tiny("cdd", "train.schedule.epochs=4", *SHRINKING)
        straight = train_tiny(recipe, tmp_path / "straight")
        channels = [row["channels"] for row in read_metrics(tmp_path / "straight")]
        assert channels == sorted(set(channels), reverse=True), "channels are removed after every epoch"
        for epoch in (1, 2, 3, 4):
            with pytest.raises(KeyboardInterrupt):
                method = interrupted(CDD(**recipe.method.arguments), epoch)
                train_tiny(recipe, tmp_path / "killed", resume=True, method=method)
        resumed = train_tiny(recipe, tmp_path / "killed", resume=True)
        assert identical(straight, resumed)
        assert without_times(tmp_path / "killed") == without_times(tmp_path / "straight")

    @pytest.mark.slow
    def test_average_of_the_weights(self, tiny, train_tiny, tmp_path):
        recipe = tiny("cdd", "train.schedule.epochs=3", "train.ema=0.9", "evaluate.every=2", HELD_OUT, *SHRINKING)
        straight = train_tiny(recipe, tmp_path / "straight")
        for epoch in (2, 3):
            with pytest.raises(KeyboardInterrupt):
                method = interrupted(CDD(**recipe.method.arguments), epoch)
                train_tiny(recipe, tmp_path / "killed", resume=True, method=method)
        assert identical(straight, train_tiny(recipe, tmp_path / "killed", resume=True))
        assert without_times(tmp_path / "killed") == without_times(tmp_path / "straight")
        again = train_tiny(recipe, tmp_path / "killed", resume=True)  # from the checkpoint of the last epoch
        assert identical(straight, again)

    @pytest.mark.slow
    def test_scale_of_the_loss(self, tiny, train_tiny, tmp_path, monkeypatch):
        monkeypatch.setattr(PKBatchSampler, "__len__", lambda self: 1)  # a step of float16 is slow on a CPU
        recipe = tiny("none", "runtime.amp=fp16", "train.sampler.identities=2")
        straight = train_tiny(recipe, tmp_path / "straight")
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path / "killed", method=interrupted(NoDistillation(), 2))
        resumed = train_tiny(recipe, tmp_path / "killed", resume=True)
        assert identical(straight, resumed)
        scales = [load_checkpoint(tmp_path / name / LAST_CHECKPOINT, CPU)["scaler"] for name in ("straight", "killed")]
        assert scales[0] == scales[1]
        assert scales[0]["scale"] < 2**16, "no step exceeded the range of float16"

    def test_random_state(self, tiny, train_tiny, tmp_path):
        """Without it, a random loss would repeat the draws of the first epochs."""
        recipe = tiny("none", "train.schedule.epochs=2")
        straight = train_tiny(recipe, tmp_path / "straight", method=Draws())
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path / "killed", method=interrupted(Draws(), 2))
        resumed = train_tiny(recipe, tmp_path / "killed", resume=True, method=Draws())
        assert identical(straight, resumed)

    @pytest.mark.slow
    def test_kill_during_validation(self, tiny, train_tiny, tmp_path, monkeypatch):
        """The epoch is not saved before its scores are complete."""
        recipe = tiny("none", "evaluate.every=1", HELD_OUT)
        straight = train_tiny(recipe, tmp_path / "straight")
        compute = RetrievalMetric.compute_metrics
        calls = []

        def fail_once(self, results):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return compute(self, results)

        monkeypatch.setattr(RetrievalMetric, "compute_metrics", fail_once)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path / "killed")
        resumed = train_tiny(recipe, tmp_path / "killed", resume=True)
        assert identical(straight, resumed)
        assert without_times(tmp_path / "killed") == without_times(tmp_path / "straight")

    def test_kill_between_metrics_and_checkpoint(self, tiny, train_tiny, tmp_path, monkeypatch):
        """The metrics of the repeated epoch are replaced, and a partial checkpoint is deleted."""
        recipe = tiny("none")

        def die(self, runner, epoch, step, begun):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointHook, "_save", die)
            with pytest.raises(KeyboardInterrupt):
                train_tiny(recipe, tmp_path)
        assert [row["epoch"] for row in read_metrics(tmp_path)] == [1]
        partial = tmp_path / LAST_CHECKPOINT.parent / ".last.pt.tmp-abc.pt"
        partial.parent.mkdir()
        partial.write_bytes(b"half a checkpoint")
        train_tiny(recipe, tmp_path, resume=True)
        assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2]
        assert [path.name for path in partial.parent.iterdir()] == ["last.pt"]

    def test_finished_training(self, tiny, train_tiny, tmp_path):
        """It is loaded, with the channels that were removed."""
        recipe = tiny("cdd", *SHRINKING)
        first = train_tiny(recipe, tmp_path)
        written = (tmp_path / LAST_CHECKPOINT).stat().st_mtime_ns
        loaded = train_tiny(recipe, tmp_path, resume=True)
        assert identical(first, loaded)
        assert not loaded.student.training
        assert (tmp_path / LAST_CHECKPOINT).stat().st_mtime_ns == written

    def test_without_resume_a_finished_training_is_repeated(self, tiny, train_tiny, tmp_path):
        recipe = tiny("none", "train.schedule.epochs=1")
        first = train_tiny(recipe, tmp_path)
        written = (tmp_path / LAST_CHECKPOINT).stat().st_mtime_ns
        repeated = train_tiny(recipe, tmp_path)
        assert identical(first, repeated)
        assert (tmp_path / LAST_CHECKPOINT).stat().st_mtime_ns > written

    def test_loss_that_is_not_finite_keeps_the_last_checkpoint(self, tiny, train_tiny, tmp_path):
        class Breaks(NoDistillation):
            epochs = 0

            def loss(self, student, teacher, batch):
                return {"broken": student.embedding.mean() / (0.0 if self.epochs else 1.0)}

            def after_epoch(self, student, progress):
                self.epochs = progress.epoch
                return []

        with pytest.raises(UserError, match=r"tiny: .*loss_broken of epoch 2 is not finite\. Lower optimizer\.lr"):
            train_tiny(tiny("none"), tmp_path, method=Breaks())
        assert load_checkpoint(tmp_path / LAST_CHECKPOINT, CPU)["epoch"] == 1
        assert [row["epoch"] for row in read_metrics(tmp_path)] == [1]


class TestResult:
    @pytest.mark.slow
    def test_worker_processes_do_not_change_it(self, tiny, train_tiny, tmp_path):
        alone = train_tiny(tiny("kd"), tmp_path / "alone")
        helped = train_tiny(tiny("kd", "runtime.workers=2"), tmp_path / "helped")
        assert identical(alone, helped)
        assert not multiprocessing.active_children(), "workers outlive the training"

    def test_seed_changes_it(self, tiny, train_tiny, tmp_path):
        settings = ("train.schedule.epochs=1",)
        first = train_tiny(tiny("none", *settings), tmp_path / "0")
        other = train_tiny(tiny("none", "seed=1", *settings), tmp_path / "1")
        pairs = zip(first.student.parameters(), other.student.parameters(), strict=True)
        assert not any(torch.equal(one, another) for one, another in pairs)

    @pytest.mark.slow
    def test_compilation(self, tiny, train_tiny, tmp_path, monkeypatch):
        """The student is compiled, and compiled again after every structural change; the teacher is compiled once."""
        graphs = Counter()

        def counting(module, inputs):
            graphs["student" if torch.is_grad_enabled() else "teacher", changes[0]] += 1
            return module.forward

        changes, change = [0], CDD.after_epoch

        def counted(*arguments):
            changes[0] += 1
            return change(*arguments)

        monkeypatch.setattr(CDD, "after_epoch", counted)
        torch._dynamo.register_backend(counting, name="counting")
        eager = train_tiny(tiny("cdd", *SHRINKING), tmp_path / "eager")
        changes[0], limit = 0, torch._dynamo.config.recompile_limit
        compiled = train_tiny(tiny("cdd", *SHRINKING, "runtime.compile=counting"), tmp_path / "compiled")
        assert read_metrics(tmp_path / "eager")[1]["channels"] < 48
        assert {role for role, number in graphs if number == 0} == {"student", "teacher"}
        assert {role for role, number in graphs if number > 0} == {"student"}
        assert torch._dynamo.config.recompile_limit == limit
        assert identical(eager, compiled)

    @pytest.mark.slow
    def test_bfloat16_keeps_float32_weights(self, tiny, train_tiny, tmp_path):
        short = "train.schedule.epochs=1"
        bfloat16 = train_tiny(tiny("cdd", "runtime.amp=bf16", short), tmp_path / "bfloat16")
        train_tiny(tiny("cdd", short), tmp_path / "float32")
        weights = bfloat16.student.state_dict()
        assert all(value.dtype in (torch.float32, torch.int64) for value in weights.values())
        losses = [[row["loss"] for row in read_metrics(tmp_path / name)[1:]] for name in ("bfloat16", "float32")]
        assert losses[0] != losses[1]
        assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_teacher_is_frozen(tiny, train_tiny, tmp_path):
    method, before = KD(), {}
    method.prepare = lambda student, teacher, plan: before.update(copy.deepcopy(teacher.state_dict()))
    teacher = train_tiny(tiny("kd", "train.schedule.epochs=1"), tmp_path, method=method).teacher
    assert before
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_plan_describes_the_training(tiny, train_tiny, tmp_path):
    method = NoDistillation()
    method.prepare = lambda student, teacher, plan: setattr(method, "plan", copy.copy(plan))
    train_tiny(tiny("none", "train.schedule.epochs=1"), tmp_path, method=method)
    plan = method.plan
    assert (plan.identities, plan.batch_size, plan.epochs, plan.optimizer) == (40, 32, 1, "sgd")
    assert plan.steps == plan.images // 32
    assert plan.learning_rate(0) == 0.05
    assert (plan.momentum, plan.weight_decay, plan.image_size) == (0.9, 5e-4, (32, 32))
