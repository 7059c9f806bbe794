"""Reading of weight files: formats, classes that may be next to the weights, and files that are refused."""

import argparse
import datetime
import functools
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import nn

from benchmark.errors import UserError
from benchmark.model.weight_file import read

WEIGHTS = {"conv1.weight": torch.arange(6.0).reshape(2, 3)}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        read(path, "weights")
    message = str(raised.value)
    assert message.startswith(f"weights {path} ")
    assert "\n" not in message and "\x1b" not in message and "Weights only" not in message
    return message


class Runs:
    """Pickled as a call of a function, which would run when the file is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "extra",
    [
        {"args": argparse.Namespace(model="resnet50", lr=0.1, amp=True)},
        {"rank1": np.float64(0.93), "mAP": np.float32(0.5), "ids": np.arange(3), "b": np.bool_(True)},
        {"message_hub": {"log_scalars": {"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}}},
        {"best": Path("best.ckpt"), "when": datetime.datetime(2024, 1, 2), "lr": functools.partial(float, 1)},
        {"a": defaultdict(int, {"a": 1}), "b": deque([1, 2]), "c": {1, 2}, "d": 1j, "e": range(3), "f": ..., "g": int},
        {"milestones": torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.zeros(1)], 1), [3]).state_dict()},
    ],
    ids=["timm", "torchreid", "mmengine", "lightning", "containers", "scheduler"],
)
def test_harmless_objects_next_to_the_weights(extra, zipped, tmp_path, reads_only):
    torch.save({"state_dict": WEIGHTS, **extra}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with reads_only(tmp_path / "w.pth"):
        content = read(tmp_path / "w.pth", "weights")
    assert torch.equal(content["state_dict"]["conv1.weight"], WEIGHTS["conv1.weight"])


@pytest.mark.parametrize("name", ["yacs.config.CfgNode", "mmengine.config.config.ConfigDict", "easydict.EasyDict"])
def test_configurations_keep_their_items(name, tmp_path, foreign_class):
    torch.save({"cfg": foreign_class(name, dict)(lr=1), "model": WEIGHTS}, tmp_path / "w.pth")
    content = read(tmp_path / "w.pth", "weights")
    assert dict(content["cfg"]) == {"lr": 1} and content["model"].keys() == WEIGHTS.keys()


def test_scalars_of_numpy_1(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": WEIGHTS, "rank1": np.float64(0.9)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))
    assert read(path, "weights")["state_dict"].keys() == WEIGHTS.keys()


def test_safetensors_whatever_the_name(tmp_path, reads_only):
    save_file(WEIGHTS, tmp_path / "w.bin")
    with reads_only(tmp_path / "w.bin"):
        assert torch.equal(read(tmp_path / "w.bin", "weights")["conv1.weight"], WEIGHTS["conv1.weight"])


def test_classes_that_others_have_allowed_are_restored_and_not_used(tmp_path):
    torch.serialization.add_safe_globals([argparse.Namespace])
    before = set(torch.serialization.get_safe_globals())
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "w.pth")
    assert not isinstance(read(tmp_path / "w.pth", "weights")["args"], argparse.Namespace)
    assert set(torch.serialization.get_safe_globals()) == before
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(before - {argparse.Namespace}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>", "is a web page"),
        (b"\n  <html>\n", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b'{"error": "Invalid username or password."}', "is a text file"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "Keras"),
        (b"PK\x03\x04" + bytes(60), "truncated or damaged"),
        (bytes(300), "is not a file of torch.save or safetensors"),
        (pickle.dumps({"a": 1}, 2), "is a pickle that was not written by torch.save"),
        (pickle.dumps(list(range(300)), 4), "is a pickle that was not written by torch.save"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        ((20).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}', "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_other_content(content, message, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


class TestPath:
    def test_missing(self, tmp_path):
        assert "does not exist" in refusal(tmp_path / "none.pth")

    def test_folder(self, tmp_path):
        assert "is a folder" in refusal(tmp_path)

    def test_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert "not a regular file" in refusal(tmp_path / "pipe")

    def test_too_long_name(self, tmp_path):
        assert "cannot be read" in refusal(tmp_path / ("a" * 300))

    def test_null_byte(self):
        assert "does not exist" in refusal(Path("a\0b"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
class TestCode:
    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            (os.system, ("touch touched",)),
            (eval, ("1",)),
            (exec, ("1",)),
            (Path.touch, (Path("touched"),)),
            (torch.load, ("other.pth",)),
            (torch.hub.load_state_dict_from_url, ("http://localhost",)),
            (bytearray, (10**10,)),
            (__import__, ("os",)),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_is_refused_by_name(self, function, arguments, zipped, tmp_path, monkeypatch, reads_only):
        monkeypatch.chdir(tmp_path)
        evil = {"w": WEIGHTS, "x": Runs(function, *arguments)}
        torch.save(evil, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        with reads_only(tmp_path / "w.pth"):
            message = refusal(tmp_path / "w.pth")
        assert "would run code" in message and "torch.save(network.state_dict(), PATH)" in message
        assert not Path("touched").exists()

    @pytest.mark.parametrize("network", [nn.Conv2d(1, 1, 1), nn.Sequential(nn.ReLU())])
    def test_a_whole_network_is_refused(self, network, zipped, tmp_path):
        torch.save(network, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        message = refusal(tmp_path / "w.pth")
        assert "a network as a Python object" in message and "state_dict" in message

    def test_an_unknown_class_is_refused(self, zipped, tmp_path, foreign_class):
        made = foreign_class("my_models.Net")
        torch.save({"model": made()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert "an object of my_models.Net" in refusal(tmp_path / "w.pth")

    def test_getattr_of_a_harmless_class_calls_nothing(self, zipped, tmp_path):
        evil = {"w": WEIGHTS, "x": Runs(getattr, argparse.Namespace, "__init__")}
        torch.save(evil, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert "x" in read(tmp_path / "w.pth", "weights")


def altered_zip(path: Path, compress: int = zipfile.ZIP_STORED, **replaced: bytes) -> Path:
    """Write the archive again, with other content in the records whose last part of the name is given."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in records.items():
            archive.writestr(name, replaced.get(name.rsplit("/")[-1].replace(".", "_"), content))
    return path


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path):
        torch.save(WEIGHTS, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_truncated(self, kept, zipped, tmp_path):
        torch.save(WEIGHTS, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        content = (tmp_path / "w.pth").read_bytes()
        (tmp_path / "w.pth").write_bytes(content[: int(kept * len(content))])
        assert "truncated or damaged" in refusal(tmp_path / "w.pth")

    def test_a_flipped_bit_of_a_weight(self, path):
        content = bytearray(path.read_bytes())
        content[content.index(WEIGHTS["conv1.weight"].numpy().tobytes()) + 7] ^= 64
        path.write_bytes(content)
        assert "truncated or damaged" in refusal(path)

    def test_a_tensor_larger_than_the_file(self, path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read("w/data.pkl")
        claimed = content.replace(b"K\x06", b"J" + (2**31 - 1).to_bytes(4, "little"), 1)
        assert claimed != content
        assert "truncated or damaged" in refusal(altered_zip(path, data_pkl=claimed))

    def test_a_compressed_archive(self, path):
        assert "was changed after torch.save wrote it" in refusal(altered_zip(path, zipfile.ZIP_DEFLATED))

    def test_another_archive(self, tmp_path):
        np.savez(tmp_path / "w.npz", a=np.zeros(3))
        assert "not written by torch.save" in refusal(tmp_path / "w.npz")

    def test_torchscript(self, tmp_path):
        torch.jit.script(nn.ReLU()).save(tmp_path / "w.pt")
        assert "TorchScript" in refusal(tmp_path / "w.pt")

    def test_another_pickle_protocol(self, tmp_path):
        torch.save(OrderedDict(WEIGHTS), tmp_path / "w.pth", pickle_protocol=4)
        assert "pickle protocol 4" in refusal(tmp_path / "w.pth")

    def test_control_characters_of_a_file_are_not_printed(self, path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read("w/data.pkl")
        named = content.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cevil\x1b[31m\nname\n")
        assert "an object of evil?[31m.name" in refusal(altered_zip(path, data_pkl=named))
