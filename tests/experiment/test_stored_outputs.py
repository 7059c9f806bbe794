"""Runs whose teacher computes its outputs once: `teacher.cached_views`."""

import json
import re
import signal
import subprocess
import time

import pytest
import timm
import torch

from benchmark.errors import UserError
from benchmark.experiment.preflight import preflight
from benchmark.results.consistency import violations
from benchmark.results.rebuild import rebuilt_violations
from benchmark.results.record import Record
from benchmark.results.rows import group_records

CPU = torch.device("cpu")
VIEWS = "teacher.cached_views=2"
VIT = ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2})


def test_hash(tiny):
    """The default is not part of it, and the teacher is that of runs whose views are not fixed."""
    recipe, fixed = tiny("kd"), tiny("kd", VIEWS)
    assert recipe.hash == tiny("kd", "teacher.cached_views=0").hash != fixed.hash
    assert recipe.for_teacher() == fixed.for_teacher()


@pytest.mark.parametrize(
    ("method", "reason"),
    [("at", "reads feature maps of the teacher"), ("cdd", "or computes with its layers"), ("none", "uses no outputs")],
)
def test_refused_before_any_image_is_read(tiny, method, reason):
    with pytest.raises(UserError, match=f"teacher.cached_views: 2: {method} .*{reason}".replace(".c", r"\.c")):
        preflight(tiny(method, VIEWS))


@pytest.mark.slow
def test_runs_of_two_methods(tiny, run, capsys):
    experiment, record = run(tiny("kd", VIEWS, "train.schedule.epochs=1", "teacher.train.schedule.epochs=1"))
    assert "1,084 forward passes" in capsys.readouterr().err
    assert (record.teacher_outputs.views, record.teacher_outputs.forward_passes) == (2, 1084)
    assert [*violations(record), *rebuilt_violations(record)] == []
    assert [row.label for row in group_records([record])] == ["kd 2 fixed views"]
    assert Record.read(experiment.teacher_folder.record).teacher_outputs is None

    other, second = run(tiny("csd", VIEWS, "seed=1", "train.schedule.epochs=1", "teacher.train.schedule.epochs=1"))
    assert other.teacher_folder == experiment.teacher_folder
    assert second.teacher_outputs == record.teacher_outputs
    assert "computing the teacher's outputs" not in capsys.readouterr().err

    (folder,) = experiment.outputs_folder.glob("2-views-*")
    (folder / "rows.bin").write_bytes(bytes(record.teacher_outputs.bytes))
    with pytest.raises(UserError, match=r"is damaged .*: delete the folder to create it again"):
        run(tiny("rkd", VIEWS, "train.schedule.epochs=1", "teacher.train.schedule.epochs=1"))


@pytest.mark.slow
def test_frozen_teacher(tiny, run, tmp_path):
    torch.manual_seed(0)
    torch.save(timm.create_model(VIT[0], num_classes=0, **VIT[1]).state_dict(), tmp_path / "vit.pth")
    network = {"backbone": VIT[0], "args": VIT[1], "weights": str(tmp_path / "vit.pth"), "neck": "none"}
    settings = [f"teacher.network.{key}={json.dumps(value)}" for key, value in network.items()]
    settings += ["teacher.frozen=true", "teacher.network.stem=imagenet", "train.schedule.epochs=1", VIEWS]
    _, record = run(tiny("rkd", *settings))
    assert record.teacher_outputs.bytes == 1084 * 4 * (24 + 24)
    assert [*violations(record), *rebuilt_violations(record)] == []


@pytest.mark.slow
def test_killed_while_outputs_are_computed(command, tmp_path):
    """The next run continues, and finds nothing else to do again."""
    fixed = ("teacher.cached_views=16", "train.schedule.epochs=1", "teacher.train.schedule.epochs=1")
    words = command(tmp_path, "--method", "kd", settings=fixed)
    killed = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    while killed.poll() is None:
        if any(path.stat().st_size for path in tmp_path.glob("runs/glyphs/teacher-outputs/16-*/blocks.jsonl")):
            killed.kill()
        time.sleep(0.01)
    assert killed.wait() == -signal.SIGKILL
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert re.search(r"8,672 forward passes, of which [1-9][\d,]* are there", again.stderr)
    assert "the teacher is trained already" in again.stderr
