"""Each workaround for mmengine: what happens without it, and that it helps.

A test named `..._upstream` fails once mmengine no longer needs the workaround, which can then be removed.
"""

import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.hooks import CheckpointHook as UpstreamCheckpointHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.utils.dl_utils import collect_env
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmark.engine.compat import (
    DistillOptimWrapper,
    InitializedModel,
    QuietRunner,
    TrainLoop,
    load_checkpoint,
    save_checkpoint,
)
from benchmark.errors import UserError

ARGUMENTS = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 4], "num_classes": 2}


def import_with_a_torn_cache(home: Path, statement: str) -> subprocess.CompletedProcess[str]:
    """Execute a statement in a process whose yapf finds a cache file that was not written completely."""
    environment = os.environ | {"XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-c", f"{statement}; import mmengine"]
    if not list(home.rglob("*.pickle")):
        subprocess.run([sys.executable, "-c", "import yapf"], env=environment, check=True)
        for path in home.rglob("*.pickle"):
            path.write_bytes(b"")
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_torn_cache_of_yapf_upstream(tmp_path):
    assert "EOFError" in import_with_a_torn_cache(tmp_path, "pass").stderr


@pytest.mark.slow
def test_torn_cache_of_yapf(tmp_path):
    assert import_with_a_torn_cache(tmp_path, "import benchmark.engine").returncode == 0


def model_of(base: type[BaseModel]) -> BaseModel:
    """A network of timm with constant weights, which stand for pretrained ones."""

    class Model(base):
        def __init__(self) -> None:
            super().__init__()
            self.net = timm.create_model("resnet18", **ARGUMENTS)
            for parameter in self.net.parameters():
                nn.init.constant_(parameter, 0.01)

        def forward(self, inputs: Tensor, mode: str = "tensor") -> Any:
            return {"loss": self.net(inputs).sum()}

    return Model()


def runner_of(cls: type[Runner], folder: Path, model: BaseModel, name: str, **arguments: Any) -> Runner:
    """A runner of one step on two images, with a learning rate of 0."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return cls(
        model=model,
        work_dir=str(folder),
        train_dataloader=DataLoader([{"inputs": torch.ones(3, 32, 32)}] * 2, batch_size=2),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper=OptimWrapper(optimizer),
        experiment_name=name,
        **arguments,
    )


def changed(model: BaseModel) -> int:
    """The number of parameters that are no longer constant."""
    return sum(not torch.equal(parameter, torch.full_like(parameter, 0.01)) for parameter in model.parameters())


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_training_overwrites_weights_upstream(tmp_path):
    model = model_of(BaseModel)
    runner_of(QuietRunner, tmp_path, model, "init-upstream").train()
    assert changed(model) > 10


def test_training_keeps_weights(tmp_path):
    model = model_of(InitializedModel)
    runner_of(QuietRunner, tmp_path, model, "init").train()
    assert changed(model) == 0


def test_autocast_refuses_the_cpu_upstream(monkeypatch):
    monkeypatch.setattr("mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available", lambda: False)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(AssertionError, match="only available"):
        AmpOptimWrapper(optimizer=optimizer, dtype="bfloat16")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_autocast_on_the_cpu(dtype):
    layer = nn.Linear(2, 2)
    wrapper = DistillOptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1), before_step=list, autocast=dtype)
    with wrapper.optim_context(layer):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer(torch.ones(1, 2)).dtype == torch.float32


def test_gradients_are_edited_before_they_are_clipped():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    seen = []

    def edit() -> None:
        seen.append(float(layer.weight.grad))
        layer.weight.grad.fill_(-100.0)

    wrapper = DistillOptimWrapper(
        torch.optim.SGD(layer.parameters(), lr=0.5),
        before_step=edit,
        accumulative_counts=2,
        clip_grad={"max_norm": 1.0},
    )
    wrapper.initialize_count_status(layer, 0, 2)
    for _ in range(2):
        with wrapper.optim_context(layer):
            loss = layer(torch.full((1, 1), 3.0)).sum()
        wrapper.update_params(loss)
    assert seen == [3.0]  # accumulated over two batches
    assert float(layer.weight.detach()) == pytest.approx(0.5)


class TestLossScale:
    """Training in float16, whose gradients are scaled."""

    @staticmethod
    def step(*factors: float) -> tuple[list[float], list[float], DistillOptimWrapper]:
        """Take a step for each factor of the loss; return the gradients that the callback sees, and the weights."""
        layer, seen, weights = nn.Linear(1, 1, bias=False), [], []
        layer.weight.data.fill_(0.0)
        wrapper = DistillOptimWrapper(
            torch.optim.SGD(layer.parameters(), lr=0.5),
            before_step=lambda: seen.append(float(layer.weight.grad)),
            autocast=torch.float16,
            clip_grad={"max_norm": 0.25},
        )
        for factor in factors:
            with wrapper.optim_context(layer):
                loss = factor * layer(torch.full((1, 1), -1.0)).float().sum()
            wrapper.update_params(loss)
            weights.append(float(layer.weight.detach()))
        return seen, weights, wrapper

    def test_callback_and_clipping_get_the_unscaled_gradient(self):
        seen, weights, wrapper = self.step(0.5, 0.25)
        assert seen == [-0.5, -0.25]
        assert weights == pytest.approx([0.125, 0.25], rel=1e-5)
        assert wrapper.scaler.get_scale() == 2.0**16

    def test_step_whose_gradient_exceeds_the_range_is_skipped(self):
        seen, weights, wrapper = self.step(4.0, 0.25)
        assert seen == [0.0, -0.25]  # 4 * 65536 is more than float16 has
        assert weights == pytest.approx([0.0, 0.125], rel=1e-5)
        assert wrapper.scaler.get_scale() == 2.0**15


def test_run_writes_folders_and_an_empty_config_upstream(tmp_path):
    runner_of(Runner, tmp_path, model_of(InitializedModel), "files-upstream").train()
    names = names_in(tmp_path)
    assert "log.txt" not in names
    assert any((tmp_path / name).is_dir() for name in names)  # named after the time, with a log and vis_data
    assert any(name.endswith(".py") for name in names)


def test_run_writes_one_log(tmp_path):
    for attempt in range(2):  # the second one resumes
        hooks = dict.fromkeys(("runtime_info", "timer", "sampler_seed", "logger", "checkpoint"))
        runner = runner_of(QuietRunner, tmp_path, model_of(InitializedModel), f"files-{attempt}", default_hooks=hooks)
        runner.train()
        runner.logger.info("attempt %d", attempt)
    assert names_in(tmp_path) == {"log.txt"}
    assert all(f"attempt {attempt}" in (tmp_path / "log.txt").read_text() for attempt in range(2))


def test_run_logs_to_the_console_upstream(tmp_path):
    assert console_level(runner_of(Runner, tmp_path, model_of(InitializedModel), "console-upstream")) <= logging.INFO


def test_run_does_not_log_to_the_console(tmp_path):
    runner = runner_of(QuietRunner, tmp_path, model_of(InitializedModel), "console")
    assert console_level(runner) == logging.CRITICAL


def console_level(runner: Runner) -> int:
    (console,) = [h for h in runner.logger.handlers if not isinstance(h, logging.FileHandler)]
    return console.level


def test_model_is_moved_to_an_accelerator_upstream(tmp_path, monkeypatch):
    monkeypatch.setattr("mmengine.runner.runner.get_device", lambda: "meta")
    model = model_of(InitializedModel)
    runner_of(Runner, tmp_path, model, "device-upstream")
    assert next(model.parameters()).device.type == "meta"


def test_model_stays_on_its_device(tmp_path, monkeypatch):
    monkeypatch.setattr("mmengine.runner.runner.get_device", lambda: "meta")
    model = model_of(InitializedModel)
    runner_of(QuietRunner, tmp_path, model, "device")
    assert next(model.parameters()).device.type == "cpu"


def test_checkpoint_cannot_be_read_safely_upstream(tmp_path):
    hook = {"checkpoint": {"type": UpstreamCheckpointHook, "interval": 1}}
    runner_of(QuietRunner, tmp_path, model_of(InitializedModel), "checkpoint-upstream", default_hooks=hook).train()
    with pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)


def test_checkpoint_is_read_safely(tmp_path):
    content = {"epoch": 3, "student": {"w": torch.randn(3)}, "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}}}
    save_checkpoint(content, tmp_path / "folder" / "last.pt")
    read = load_checkpoint(tmp_path / "folder" / "last.pt", torch.device("cpu"))
    assert torch.equal(read["student"]["w"], content["student"]["w"])
    assert (read["epoch"], read["optimizer"]["state"][0]["step"]) == (3, 2.0)


def test_failed_write_keeps_the_last_checkpoint(tmp_path, full_disk):
    path = tmp_path / "last.pt"
    save_checkpoint({"epoch": 1}, path)
    with full_disk(100_000), pytest.raises(UserError, match=rf"checkpoint {path} cannot be written: File too large"):
        save_checkpoint({"epoch": 2, "weights": torch.zeros(1_000_000)}, path)
    assert load_checkpoint(path, torch.device("cpu")) == {"epoch": 1}
    assert names_in(tmp_path) == {"last.pt"}


def test_damaged_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint({"epoch": 1, "weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=rf"checkpoint {path} cannot be read, it is damaged.*delete it"):
        load_checkpoint(path, torch.device("cpu"))


def test_logger_keeps_the_file_of_its_first_run_upstream(tmp_path):
    first = MMLogger.get_instance("shared-name", log_file=str(tmp_path / "first.log"))
    assert MMLogger.get_instance("shared-name", log_file=str(tmp_path / "second.log")) is first


def test_runs_of_one_name_have_separate_logs(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        runner_of(QuietRunner, folder, model_of(InitializedModel), "one-name").logger.info("here is %s", folder.name)
    assert "here is b" in (tmp_path / "b" / "log.txt").read_text()
    assert "here is b" not in (tmp_path / "a" / "log.txt").read_text()


def test_position_of_a_loop_cannot_be_set_upstream(tmp_path):
    runner = runner_of(QuietRunner, tmp_path, model_of(InitializedModel), "begin")
    loop = runner.build_train_loop(runner._train_loop)
    with pytest.raises(AttributeError):
        loop.epoch = 1


def test_position_of_a_training_can_be_set(tmp_path):
    runner = runner_of(QuietRunner, tmp_path, model_of(InitializedModel), "position")
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.continue_from(1, 5)
    assert (runner.epoch, runner.iter) == (1, 5)


def first_index(loop: type[EpochBasedTrainLoop], folder: Path) -> int:
    """The number of the step that a loop makes first after one step of an epoch."""
    runner, indices = runner_of(QuietRunner, folder, model_of(InitializedModel), loop.__name__), []
    within = loop(runner, DataLoader([torch.ones(1)] * 3), max_epochs=1)
    within._iter, runner.call_hook = 1, lambda *names: None
    within.run_iter = lambda index, batch: indices.append(index)
    within.run_epoch()
    return indices[0]


def test_loop_cannot_begin_within_an_epoch_upstream(tmp_path):
    assert first_index(EpochBasedTrainLoop, tmp_path) == 0


def test_loop_begins_within_an_epoch(tmp_path):
    assert first_index(TrainLoop, tmp_path) == 1


def test_old_checkpoint_is_deleted_before_the_new_one_is_written_upstream():
    source = inspect.getsource(UpstreamCheckpointHook._save_checkpoint_with_step)
    assert source.index("remove") < source.index("runner.save_checkpoint")


def test_logging_the_environment_needs_distutils_and_a_compiler_upstream(tmp_path, monkeypatch, capfd):
    assert "distutils" in inspect.getsource(collect_env)
    monkeypatch.setenv("PATH", str(tmp_path))
    runner_of(Runner, tmp_path, model_of(InitializedModel), "compiler-upstream")
    assert "not found" in capfd.readouterr().err


def test_machine_without_a_compiler(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", str(tmp_path))
    runner_of(QuietRunner, tmp_path, model_of(InitializedModel), "compiler").train()
    assert capfd.readouterr().err == ""
