"""Helpers that change records made up by the `record` fixture, and committed records."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.results.record import Record
from benchmark.results.store import load_records
from benchmark.retrieval import EmbeddingFormat
from benchmark.utils.recipe_hash import recipe_hash

COMMITTED = Path(__file__).parents[2] / "leaderboards" / "archive" / "records"


def _edit(record: Record, changes: dict[str, Any]) -> Record:
    content = record.model_dump(mode="json")
    for key, value in json.loads(json.dumps(changes)).items():
        *parents, last = key.split(".")
        parent = content
        for name in parents:
            parent = parent[name]
        parent[last] = value
    return Record.model_validate(content)


def _with_queries(record: Record, values: Sequence[float | None] | None = None) -> Record:
    symmetric = record.scores.symmetric
    if values is None:
        counted = symmetric.queries - symmetric.skipped
        values = [None] * symmetric.skipped + [symmetric.mAP] * counted
    known = [value for value in values if value is not None]
    return _edit(
        record,
        {
            "scores.symmetric.mAP": float(np.mean(known)),
            "scores.symmetric.queries": len(values),
            "scores.symmetric.skipped": len(values) - len(known),
            "scores.average_precision": list(values),
        },
    )


@pytest.fixture(scope="session")
def edit() -> Callable[..., Record]:
    """`edit(record, {"network.weights": "b" * 64})` returns the record with values at dotted keys replaced."""
    return _edit


def _stored(record: Record, embedding: str) -> Record:
    """Return the record of a run that differs in the format of the gallery."""
    recipe = record.recipe | {"evaluate": {"embedding": embedding}}
    size = EmbeddingFormat.parse(embedding).bytes_per_image(record.network.embedding)
    digest = recipe_hash(recipe)
    return record.model_copy(
        update={
            "recipe": recipe,
            "recipe_hash": digest,
            "id": Record.make_id(digest, record.role),
            "embedding": embedding,
            "bytes_per_image": size,
        }
    )


@pytest.fixture(scope="session")
def stored() -> Callable[..., Record]:
    """`stored(record, "int8")` returns the record of a run with its gallery in another format."""
    return _stored


@pytest.fixture(scope="session")
def with_queries() -> Callable[..., Record]:
    """`with_queries(record, [0.5, None])` sets the average precisions; by default, each is the record's mAP."""
    return _with_queries


@pytest.fixture(scope="session")
def committed() -> Callable[..., Record]:
    """`committed("kd")` returns the committed record of a method on glyphs."""
    records = load_records(COMMITTED)

    def find(method: str, seed: int = 0, role: str = "student") -> Record:
        (record,) = (each for each in records if (each.method, each.seed, each.role) == (method, seed, role))
        return record

    return find


@pytest.fixture
def first_record(committed: Callable[..., Record]) -> Record:
    """A committed record reduced to what the first versions of the suite recorded."""
    content = committed("kd").model_dump(mode="json")
    for recipe in (content["recipe"], content["recipe"]["teacher"]):
        assert recipe["train"]["sampler"].pop("views") == 1
    content["scores"]["average_precision"] = None
    for scores in (content["scores"]["symmetric"], content["teacher"]["scores"]):
        scores |= {"precision": {}, "mAP_at_R": None, "R_precision": None}
    protocol = content["data"]["protocol"]
    content["data"]["protocol"] = {rule: protocol[rule] for rule in ("camera_rule", "query_in_gallery", "recall_at")}
    return Record.model_validate(content)
