"""Folders of runs that nobody did."""

import json
from pathlib import Path

import pytest

from benchmark.results.record import Record

LOSSES = [{"epoch": 1, "loss": 8.0}, {"epoch": 2, "loss": 4.0}]


@pytest.fixture
def run(record, tmp_path):
    """`run("kd", [0.5, None, 0.7])`: the folder of a run with these average precisions; `changes` are a record's."""

    def make(
        method, precisions=(0.4, 0.6), *, metrics=LOSSES, recipe=None, non_default=None, work="runs", **changes
    ) -> Path:
        known = [value for value in precisions or [0.5] if value is not None]
        content = record(method, mAP=sum(known) / len(known), **changes).model_dump(mode="json")
        content |= {"recipe": recipe or content["recipe"], "variant": non_default or {}}
        if precisions is not None:
            content["scores"]["average_precision"] = precisions
            content["scores"]["symmetric"] |= {"queries": len(precisions), "skipped": len(precisions) - len(known)}
        made = Record.model_validate(content)
        label = "teacher" if made.role == "teacher" else method
        folder = tmp_path / work / made.board / label / f"seed{made.seed}-{made.recipe_hash.encode().hex()[-8:]}"
        made.write(folder / "record.json")
        (folder / "recipe.yaml").write_text(json.dumps(content["recipe"]))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
        return folder

    return make


@pytest.fixture
def compare(command_line, monkeypatch, tmp_path):
    """`compare(folder, folder)` runs the command in an empty folder: its exit code, and what it printed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "160")

    def ask(*arguments: object) -> tuple[int, str, str]:
        return command_line("compare", *arguments)

    return ask
