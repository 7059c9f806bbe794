"""Checkpoints that do not belong to the training that would continue from them."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.checkpoint import read_checkpoint, training_hash
from benchmark.engine.compat import load_checkpoint, save_checkpoint
from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.errors import UserError

TRAINING = "a" * 64


@pytest.fixture
def content() -> dict[str, Any]:
    """A valid checkpoint of the first of two epochs."""
    return {
        "format": 1,
        "recipe": TRAINING,
        "epoch": 1,
        "iter": 4,
        "structure": {},
        "student": {"weight": torch.zeros(2)},
        "method": {},
        "optimizer": {"state": {}, "param_groups": []},
        "schedulers": [],
        "threads": 1,
        "random": torch.get_rng_state(),
        "cuda_random": None,
        "best": None,
    }


def read(content: Any, folder: Path) -> dict[str, Any]:
    save_checkpoint(content, folder / "last.pt")
    return read_checkpoint(folder / "last.pt", TRAINING, epochs=2)


def test_checkpoint_of_the_training(content, tmp_path):
    assert read(content, tmp_path)["epoch"] == 1
    for key in ("format", "recipe", "best"):  # which earlier versions did not write
        del content[key]
    assert read(content, tmp_path)["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "has format 3, and this version reads format 2 and earlier ones"),
        ({"format": torch.zeros(3)}, "has an invalid value of 'format'"),
        ({"format": True}, "has an invalid value of 'format'"),
        ({"recipe": torch.zeros(3)}, "has an invalid value of 'recipe'"),
        ({"recipe": "b" * 64}, "belongs to the training of another recipe"),
        ({"epoch": 99}, "is of epoch 99, but the training has 2 epochs"),
        ({"epoch": 0}, "is of epoch 0"),
        ({"epoch": True}, "has an invalid value of 'epoch'"),
        ({"epoch": 1.0}, "has an invalid value of 'epoch'"),
        ({"iter": -5}, "has impossible counts"),
        ({"threads": 0}, "has impossible counts"),
        ({"student": None}, "has an invalid value of 'student'"),
        ({"optimizer": []}, "has an invalid value of 'optimizer'"),
        ({"random": None}, "has an invalid value of 'random'"),
        ({"best": {}}, "has an invalid value of 'best'"),
        ({"best": {"epoch": 2, "mAP": 0.5, "student": {}, "method": {}}}, "has an invalid value of 'best'"),
    ],
)
def test_checkpoint_of_another_training(content, tmp_path, change, message):
    with pytest.raises(UserError, match=rf"last\.pt {message}.*delete it to start the training again"):
        read(content | change, tmp_path)


@pytest.mark.parametrize("other", [{}, [], "text", torch.zeros(3), {"student": {}}, {1: 2}, None])
def test_file_that_is_not_a_checkpoint(tmp_path, other):
    with pytest.raises(UserError, match="is not the checkpoint of a training"):
        read(other, tmp_path)


def test_one_flipped_bit_is_found(content, tmp_path):
    content["student"]["weight"] = torch.zeros(1000)
    read(content, tmp_path)
    damaged = bytearray((tmp_path / "last.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "last.pt").write_bytes(damaged)
    with pytest.raises(UserError, match="cannot be read, its checksum is wrong: delete it"):
        read_checkpoint(tmp_path / "last.pt", TRAINING, epochs=2)


def test_training_hash_ignores_the_evaluation(tiny):
    hashes = {
        training_hash(tiny("kd", *settings), Glyphs)
        for settings in ([], ["evaluate.batch_size=7"], ["evaluate.reranking.k1=4"], ["runtime.workers=1"])
    }
    assert len(hashes) == 1
    changes = ("seed=1", "train.optimizer.lr=0.1", "student.dim=8", "dataset.train_identities=30", "method=at")
    hashes |= {training_hash(tiny("kd", change), Glyphs) for change in changes}
    assert len(hashes) == 1 + len(changes)


class TestContinuing:
    """A training continues only from values that fit its networks."""

    @pytest.fixture
    def started(self, tiny, train_tiny, tmp_path):
        """The recipe of a training of one epoch, its folder, and its checkpoint, which has one more epoch to go."""
        recipe = tiny("none", "train.schedule.epochs=1")
        train_tiny(recipe, tmp_path)
        longer = tiny("none", "train.schedule.epochs=2")
        content = load_checkpoint(tmp_path / LAST_CHECKPOINT, torch.device("cpu"))
        return longer, tmp_path, content | {"recipe": training_hash(longer, Glyphs)}

    def test_values_that_do_not_fit(self, started, train_tiny):
        recipe, folder, content = started
        others = {
            "student": {"neck.linear.weight": torch.zeros(2, 2)},
            "method": {"unknown": torch.zeros(1)},
            "optimizer": {**content["optimizer"], "state": {0: {"momentum_buffer": torch.zeros(3)}}},
            "schedulers": content["schedulers"][:-1],
            "random": torch.zeros(3, dtype=torch.uint8),
        }
        for key, other in others.items():
            save_checkpoint(content | {key: other}, folder / LAST_CHECKPOINT)
            with pytest.raises(UserError, match=r"last\.pt does not fit the networks of this run"):
                train_tiny(recipe, folder, resume=True)
        content["student"]["neck.linear.weight"][0, 0] = float("nan")
        save_checkpoint(content, folder / LAST_CHECKPOINT)
        with pytest.raises(UserError, match=r"last\.pt has weights that are NaN or infinite"):
            train_tiny(recipe, folder, resume=True)


def test_checkpoint_that_is_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "last.pt")  # would be waited for
    with pytest.raises(UserError, match=r"last\.pt is not a regular file"):
        read_checkpoint(tmp_path / "last.pt", "", 1)
