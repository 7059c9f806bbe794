"""Files in a run folder that are damaged."""

import os
from pathlib import Path

import pytest

from benchmark.engine.files import METRICS_FILE, SKIPPED_FILE, note_skipped, read_metrics, read_skipped, write_metrics
from benchmark.errors import UserError


def test_metrics_round_trip(tmp_path):
    assert read_metrics(tmp_path) == []
    rows = [{"epoch": 0, "channels": 64}, {"epoch": 1, "loss": float("inf"), "channels": 48}]
    write_metrics(tmp_path, rows)
    assert read_metrics(tmp_path) == rows


@pytest.mark.parametrize(
    "line",
    [
        b'{"epoch": 2, "lo',  # torn
        b"",
        b"[]",
        b"null",
        b'"epoch"',
        b"{}",
        b'{"epoch": "2"}',
        b'{"epoch": 1}',  # again
        b'{"epoch": 2, "loss": "low"}',
        b'{"epoch": 2, "loss": [1]}',
        b'{"epoch": 2, "mAP": true}',
        b'{"epoch": 2, "macs": null}',
        b'{"epoch": 2, "loss": 1' + b"0" * 400 + b"}",
        b"[" * 100_000,
    ],
)
def test_damaged_metrics(tmp_path, line):
    (tmp_path / METRICS_FILE).write_bytes(b'{"epoch": 1, "loss": 0.5}\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"{METRICS_FILE}, line 2: not the metrics of an epoch; restore the file"):
        read_metrics(tmp_path)


def test_metric_of_a_method_that_is_not_a_number(tmp_path):
    with pytest.raises(UserError, match="the metric 'state' must be a number, not 'fine'"):
        write_metrics(tmp_path, [{"epoch": 1, "state": "fine"}])


@pytest.mark.parametrize("name", [METRICS_FILE, SKIPPED_FILE])
def test_binary_files(tmp_path, name):
    read = read_metrics if name == METRICS_FILE else read_skipped
    (tmp_path / name).write_bytes(b"\xff\x00\x80")
    with pytest.raises(UserError, match=f"{name} is not text in UTF-8"):
        read(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder, not a file"):
        read(tmp_path)
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)  # would be waited for
    with pytest.raises(UserError, match=f"{name} is not a regular file"):
        read(tmp_path)


def test_skipped_images(tmp_path, capsys):
    note_skipped(tmp_path, [tmp_path / "b.jpg", tmp_path / "a.jpg"])
    note_skipped(tmp_path, [tmp_path / "a.jpg"])
    assert read_skipped(tmp_path) == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert capsys.readouterr().err.count("\n") == 1, "the second call adds no image"
    (tmp_path / SKIPPED_FILE).write_bytes(b"a.jpg\n\n\x00\n")
    with pytest.raises(UserError, match="is not a list of paths"):
        read_skipped(tmp_path)


def test_skipped_images_with_hostile_names(tmp_path):
    name = os.fsdecode(b"\xc4\xe3\n\x1b[2J.jpg")  # not UTF-8, of two lines, and clears the screen
    note_skipped(tmp_path, [Path(name)])
    note_skipped(tmp_path, [Path(name)])
    assert read_skipped(tmp_path) == ["\\xc4\\xe3\\n\\x1b[2J.jpg"]
