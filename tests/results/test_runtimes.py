"""The table of other runtimes."""

import pytest

from benchmark.results.rows import group_records
from benchmark.results.runtimes import runtimes_table

LATENCY = {
    "runtime": "onnx",
    "version": "onnxruntime 1.22",
    "created": "2026-01-02T03:04:05+00:00",
    "latency_ms": {"1": 0.5, "64": 20.0},
    "latency_range_ms": {"1": [0.4, 0.6], "64": [19.0, 30.0]},
    "latency_quartiles_ms": {"1": [0.48, 0.52], "64": [19.5, 24.0]},
    "load": 0.1,
    "device": "a | b",
    "threads": 2,
}
EXPORT = {
    "runtime": "openvino 2025",
    "preprocessing": "inside",
    "bytes": 12_000,
    "images": 10,
    "max_abs_difference": 2e-7,
    "mAP": 0.5,
    "latency_ms": {"1": 1.0},
    "latency_range_ms": {"1": [1.0, 1.0]},
    "device": "cpu",
    "threads": 1,
}


def lines_of(record):
    table = runtimes_table(group_records([record]))
    return [[cell.text for cell in line.cells] for line in table.rows]


def test_lines(record, edit):
    changed = edit(record("kd"), {"exports": {"openvino": EXPORT}, "latencies": [LATENCY]})
    assert lines_of(changed) == [
        ["`kd`", "22.0 M", "0", "openvino (openvino 2025)", "cpu, 1 thread", "50.0", "2e-07", "12.0 k", "1.00", "-"],
        [
            "`kd`",
            "22.0 M",
            "0",
            "onnx (onnxruntime 1.22)",
            "a | b, 2 threads",
            "-",
            "-",
            "-",
            "0.500",
            "20.0 (unstable)",
        ],
    ]


@pytest.mark.parametrize(("load", "text"), [(0.4, "0.500"), (0.6, "0.500 (busy)"), (None, "0.500")])
def test_busy_machine(record, edit, load, text):
    (line,) = lines_of(edit(record("kd"), {"latencies": [LATENCY | {"load": load}]}))
    assert line[-2] == text


def test_no_table_without_measurements(record):
    assert runtimes_table(group_records([record("kd")])) is None
