"""Run folders without training, and the command."""

import json
from pathlib import Path

import pytest

from benchmark.results.record import Record

LOSSES = [{"epoch": 1, "loss": 8.0}, {"epoch": 2, "loss": 4.0}]


@pytest.fixture
def run(record, tmp_path):
    """`run("kd", [0.5, None, 0.7])` writes the folder of a run with these average precisions (None: skipped query).

    `changes` replace fields of the record.
    """

    def write(
        method,
        average_precision=(0.4, 0.6),
        *,
        metrics=LOSSES,
        recipe=None,
        non_default=None,
        work_dir="runs",
        **changes,
    ) -> Path:
        valid = [value for value in average_precision or [0.5] if value is not None]
        content = record(method, mAP=sum(valid) / len(valid), **changes).model_dump(mode="json")
        content |= {"recipe": recipe or content["recipe"], "variant": non_default or {}}
        if average_precision is not None:
            queries = len(average_precision)
            content["scores"]["average_precision"] = average_precision
            content["scores"]["symmetric"] |= {"queries": queries, "skipped": queries - len(valid)}
        written = Record.model_validate(content)
        label = "teacher" if written.role == "teacher" else method
        name = f"seed{written.seed}-{written.recipe_hash.encode().hex()[-8:]}"
        folder = tmp_path / work_dir / written.board / label / name
        written.write(folder / "record.json")
        (folder / "recipe.yaml").write_text(json.dumps(content["recipe"]))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
        return folder

    return write


@pytest.fixture
def compare(command_line, monkeypatch, tmp_path):
    """`compare(folder, folder)` runs the command in an empty folder and returns exit code, stdout and stderr."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: command_line("compare", *arguments)
