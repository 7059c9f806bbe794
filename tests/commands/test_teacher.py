"""`benchmark teacher add --as`: a network of another project becomes a published teacher."""

import json
import shlex

import pytest
import torch
import torchvision

from benchmark.experiment.published import published_teachers

SMALL = ("--set", "dataset.train_identities=40", "--set", "dataset.test_identities=20", "--set", "runtime.threads=1")


@pytest.fixture
def file(tmp_path):
    """A file as reid-strong-baseline writes it."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().state_dict()
    state = {f"base.{key}": value for key, value in network.items() if not key.startswith("fc.")}
    state |= {f"bottleneck.{key}": value for key, value in torch.nn.BatchNorm1d(512).state_dict().items()}
    torch.save(state | {"classifier.weight": torch.zeros(7, 512)}, tmp_path / "market.pth")
    return tmp_path / "market.pth"


@pytest.mark.slow
def test_add(command_line, file, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    options = ["--data-root", data_root, "--work-dir", tmp_path / "runs", "--device", "cpu"]
    named = ["--as", "reid-strong-baseline", "--dataset", "glyphs", *SMALL]
    done = command_line("teacher", "add", file, *named, *options)
    assert done.code == 0, done.err
    score, use = done.out.splitlines()[-2:]
    assert score.startswith("mAP ") and score.endswith("on glyphs")
    names = dict(published_teachers())
    (name,) = (word for word in use.split() if word.startswith("sha256:"))
    assert names[name].network.name == "resnet18"
    assert names[name].recipe["teacher"]["frozen"]

    settings = shlex.split(use.partition(name)[2])  # as a shell reads what was copied
    assert {'teacher.network.neck="bn"', "teacher.network.last_stride=1"} <= set(settings)
    run = ("run", "--method", "rkd", "--dataset", "glyphs", *SMALL, *options[:4], "--dry-run")
    again = command_line(*run, "--teacher", name, *settings)
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as", "fast-reid"], "--as fast-reid: give the --dataset on which the network was trained"),
        (["--dataset", "glyphs"], "--plugin and --device: only for a file of another project: add --as"),
        (["--device", "cpu"], "--plugin and --device: only for a file of another project: add --as"),
        (["--as", "fastreid", "--dataset", "glyphs"], "--as fastreid: unknown project; did you mean 'fast-reid'?"),
        (["--as", "torchreid", "--dataset", "glyphs", "--name", "sha256:0"], "--name: only for archives"),
        (["--as", "torchreid", "--dataset", "glyphs"], "base.conv1.weight belongs to another network"),
    ],
)
def test_mistakes(command_line, file, options, message):
    done = command_line("teacher", "add", file, *options)
    assert (done.code, message in done.err) == (2, True), json.dumps(done.err)
