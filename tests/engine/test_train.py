"""A training as a whole: what is logged, what is kept, and what may not change its result."""

import copy
import json
import multiprocessing
import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmark.engine.compat import load_checkpoint
from benchmark.engine.files import LAST
from benchmark.engine.hooks import CheckpointHook, RetrievalMetric
from benchmark.engine.train import Trained, uses_bfloat16
from benchmark.errors import UserError
from benchmark.methods.cdd import CDD
from benchmark.methods.kd import KD
from benchmark.methods.none import NoDistillation

SHRINKING = ("method.lasso=0.003", "method.threshold=0.95", "method.reset_from=0.1")
"""CDD settings under which rows go in every one of the first epochs."""


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, float]]:
    return [{key: row[key] for key in row.keys() - {"seconds", "images_per_second"}} for row in rows(folder)]


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.student.state_dict()


def same(first: Trained, second: Trained) -> bool:
    pairs = zip(weights(first).items(), weights(second).items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def interrupted(method, epoch: int):
    """A method that dies when this epoch has been trained, before it is saved."""
    original = method.after_epoch

    def after_epoch(student, progress):
        if progress.epoch == epoch:
            raise KeyboardInterrupt
        return original(student, progress)

    method.after_epoch = after_epoch
    return method


def test_a_row_is_kept_and_a_line_shown_per_epoch(tiny, train_tiny, tmp_path, capsys):
    recipe = tiny("kd", "train.schedule.epochs=3", "train.task.triplet.from_epoch=3")
    train_tiny(recipe, tmp_path)
    kept = rows(tmp_path)
    assert [row["epoch"] for row in kept] == [1, 2, 3]
    for row in kept:
        terms = [value for key, value in row.items() if key.startswith("loss_")]
        assert row["loss"] == pytest.approx(sum(terms), rel=1e-4)
        assert row["images_per_second"] > 0
    assert ["loss_triplet" in row for row in kept] == [False, False, True]
    # On a slow machine other lines appear too: a bar of the packing of the images, for one.
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tiny")]
    assert [line[: len("tiny  epoch 1/3")] for line in shown] == [f"tiny  epoch {i}/3" for i in (1, 2, 3)]
    assert all(re.search(r"loss \d.*lr \d.*images/s.*eta \d", line) for line in shown)
    assert "epoch 3/3" in (tmp_path / "log.txt").read_text()


def test_the_first_row_is_what_the_method_starts_from(tiny, train_tiny, tmp_path):
    train_tiny(tiny("cdd"), tmp_path)
    start, *trained = rows(tmp_path)
    assert (start["epoch"], start["channels"], start["masked"]) == (0, 48, 0)
    assert start["macs"] == trained[0]["macs"]
    assert "loss" not in start


def test_a_terminal_gets_a_bar_that_is_taken_away(tiny, train_tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tiny("none"), tmp_path, method=interrupted(NoDistillation(), epoch=2))
    shown = capsys.readouterr().err
    assert "tiny 1/2" in shown
    assert "32/32" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def test_validation_comes_every_so_many_epochs_and_after_the_last(tiny, train_tiny, tmp_path, capsys):
    recipe = tiny("none", "train.schedule.epochs=5", "evaluate.every=2")
    trained, _ = train_tiny(recipe, tmp_path / "with")
    kept = rows(tmp_path / "with")
    assert [row["epoch"] for row in kept if "mAP" in row] == [2, 4, 5]
    assert all(0 < row["mAP"] < 1 and 0 < row["R@1"] < 1 for row in kept if "mAP" in row)
    assert capsys.readouterr().err.count("mAP") == 3
    without, _ = train_tiny(tiny("none", "train.schedule.epochs=5"), tmp_path / "without")
    assert same(trained, without)


def test_a_kill_during_validation_loses_no_scores(tiny, train_tiny, tmp_path, monkeypatch):
    recipe = tiny("none", "train.schedule.epochs=3", "evaluate.every=1")
    straight, _ = train_tiny(recipe, tmp_path / "straight")
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
    resumed, _ = train_tiny(recipe, tmp_path / "killed", resume=True)
    assert same(straight, resumed)
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "straight")


def test_resuming_continues_bit_for_bit_across_structural_steps(tiny, train_tiny, tmp_path):
    recipe = tiny("cdd", "train.schedule.epochs=4", *SHRINKING)
    straight, _ = train_tiny(recipe, tmp_path / "straight")
    channels = [row["channels"] for row in rows(tmp_path / "straight")]
    assert channels == sorted(set(channels), reverse=True)  # fewer after every epoch
    for epoch in (1, 2, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            method = interrupted(CDD(**recipe.method.arguments), epoch)
            train_tiny(recipe, tmp_path / "killed", resume=True, method=method)
    resumed, _ = train_tiny(recipe, tmp_path / "killed", resume=True)
    assert same(straight, resumed)
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "straight")


def test_epochs_that_will_be_done_again_leave_the_metrics(tiny, train_tiny, tmp_path, monkeypatch):
    """A kill between the two writes at the end of an epoch: its row is there, its checkpoint is not."""
    recipe = tiny("none", "train.schedule.epochs=3")

    def die(self, runner, epoch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointHook, "_save", die)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path)
    assert [row["epoch"] for row in rows(tmp_path)] == [1]
    partial = tmp_path / LAST.parent / ".last.pt.abc.pt"
    partial.parent.mkdir()
    partial.write_bytes(b"half a checkpoint")
    train_tiny(recipe, tmp_path, resume=True)
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3]
    assert [path.name for path in partial.parent.iterdir()] == ["last.pt"]


def test_a_finished_training_is_loaded(tiny, train_tiny, tmp_path):
    recipe = tiny("cdd", *SHRINKING)
    first, _ = train_tiny(recipe, tmp_path)
    written = (tmp_path / LAST).stat().st_mtime_ns
    again, _ = train_tiny(recipe, tmp_path, resume=True)
    assert same(first, again)
    assert not again.student.training
    assert (tmp_path / LAST).stat().st_mtime_ns == written


def test_without_resume_training_starts_anew(tiny, train_tiny, tmp_path):
    recipe = tiny("none")
    first, _ = train_tiny(recipe, tmp_path)
    written = (tmp_path / LAST).stat().st_mtime_ns
    again, _ = train_tiny(recipe, tmp_path)
    assert same(first, again)
    assert (tmp_path / LAST).stat().st_mtime_ns > written


def test_workers_change_nothing(tiny, train_tiny, tmp_path):
    alone, _ = train_tiny(tiny("kd"), tmp_path / "alone")
    helped, _ = train_tiny(tiny("kd", "runtime.workers=2"), tmp_path / "helped")
    assert same(alone, helped)
    assert not multiprocessing.active_children()  # they end with the training


def test_the_seed_changes_everything(tiny, train_tiny, tmp_path):
    first, _ = train_tiny(tiny("none"), tmp_path / "0")
    other, _ = train_tiny(tiny("none", "seed=1"), tmp_path / "1")
    pairs = zip(first.student.parameters(), other.student.parameters(), strict=True)
    assert not any(torch.equal(one, another) for one, another in pairs)


def test_a_loss_that_is_not_finite_is_a_message_and_keeps_the_last_good_epoch(tiny, train_tiny, tmp_path):
    class Breaks(NoDistillation):
        def loss(self, student, teacher, batch):
            term = student.embedding.mean()
            return {"broken": term / (0.0 if self.epochs else 1.0)}

        def after_epoch(self, student, progress):
            self.epochs = progress.epoch
            return []

    method = Breaks()
    method.epochs = 0
    recipe = tiny("none", "train.schedule.epochs=3")
    with pytest.raises(UserError, match=r"tiny: .*loss_broken of epoch 2 is not finite\. Lower optimizer\.lr"):
        train_tiny(recipe, tmp_path, method=method)
    assert load_checkpoint(tmp_path / LAST, torch.device("cpu"))["epoch"] == 1
    assert [row["epoch"] for row in rows(tmp_path)] == [1]


def test_compiling_reaches_the_training_step_and_follows_structural_steps(tiny, train_tiny, tmp_path):
    graphs = []

    def counting(module, inputs):
        graphs.append(len(graphs))
        return module.forward

    torch._dynamo.register_backend(counting, name="counting")
    plain, _ = train_tiny(tiny("cdd", *SHRINKING), tmp_path / "plain")
    compiled, _ = train_tiny(tiny("cdd", *SHRINKING, "runtime.compile=counting"), tmp_path / "compiled")
    assert rows(tmp_path / "plain")[1]["channels"] < 48
    assert len(graphs) >= 4  # teacher and student, and both again after the structural step
    assert same(plain, compiled)


def test_a_flag_writes_tensorboard_events(tiny, train_tiny, tmp_path):
    train_tiny(tiny("cdd", "runtime.tensorboard=true", "evaluate.every=1"), tmp_path)
    (events,) = (tmp_path / "tensorboard").rglob("events.out.tfevents.*")
    reader = EventAccumulator(str(events)).Reload()
    kept = rows(tmp_path)[1:]
    for name in ("loss", "loss_kl", "lr", "channels", "macs", "mAP"):
        assert [event.step for event in reader.Scalars(name)] == [1, 2]
        assert [event.value for event in reader.Scalars(name)] == pytest.approx([row[name] for row in kept])


def test_bfloat16_is_used_where_it_is_asked_for_or_fast(tiny, monkeypatch):
    cpu = torch.device("cpu")
    assert uses_bfloat16(tiny("none", "runtime.amp=bf16"), cpu)
    assert not uses_bfloat16(tiny("none", "runtime.amp='off'"), cpu)
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        assert uses_bfloat16(tiny("none", "runtime.amp=auto"), cpu) == fast


def test_bfloat16_training_keeps_float32_weights(tiny, train_tiny, tmp_path):
    short, _ = train_tiny(tiny("cdd", "runtime.amp=bf16"), tmp_path / "short")
    train_tiny(tiny("cdd"), tmp_path / "full")
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(short).values())
    losses = [[row["loss"] for row in rows(tmp_path / which)[1:]] for which in ("short", "full")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_the_checkpoint_holds_the_random_state(tiny, train_tiny, tmp_path):
    """A method that draws: without the random state its second half would draw what its first half drew."""

    class Draws(NoDistillation):
        def loss(self, student, teacher, batch):
            return {"noise": (student.embedding * torch.randn_like(student.embedding)).mean()}

    recipe = tiny("none", "train.schedule.epochs=3")
    straight, _ = train_tiny(recipe, tmp_path / "straight", method=Draws())
    with pytest.raises(KeyboardInterrupt):
        train_tiny(recipe, tmp_path / "killed", method=interrupted(Draws(), 3))
    resumed, _ = train_tiny(recipe, tmp_path / "killed", resume=True, method=Draws())
    assert same(straight, resumed)


def test_the_teacher_stays_as_it_was(tiny, train_tiny, tmp_path):
    method, before = KD(), {}
    method.prepare = lambda student, teacher, plan: before.update(copy.deepcopy(teacher.state_dict()))
    _, teacher = train_tiny(tiny("kd"), tmp_path, method=method)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_plan_says_what_is_to_come(tiny, train_tiny, tmp_path):
    method = NoDistillation()
    method.prepare = lambda student, teacher, plan: setattr(method, "plan", copy.copy(plan))
    train_tiny(tiny("none"), tmp_path, method=method)
    plan = method.plan
    assert (plan.identities, plan.batch_size, plan.epochs, plan.optimizer) == (40, 32, 2, "sgd")
    assert plan.steps == 2 * (plan.images // 32)
    assert plan.learning_rate(0) == 0.05
    assert (plan.momentum, plan.weight_decay, plan.image_size) == (0.9, 5e-4, (32, 32))
