"""Made-up records. Their scores come from no run."""

from typing import Any

import pytest

from benchmark.results.record import Record


def _cost(macs: float, device: str = "cpu", threads: int = 2) -> dict[str, Any]:
    return {
        "parameters": int(macs // 20),
        "macs": int(macs),
        "flops": 2 * int(macs),
        "image_size": [64, 64],
        "latency_ms": {"1": macs / 1e7, "64": macs / 2e5},
        "peak_memory_mb": 120.5,
        "device": device,
        "threads": threads,
    }


def _scores(mAP: float) -> dict[str, Any]:
    recall = {"1": min(1.0, mAP + 0.1), "5": min(1.0, mAP + 0.2), "10": min(1.0, mAP + 0.25)}
    return {"mAP": mAP, "mINP": mAP / 2, "recall": recall, "queries": 1500, "skipped": 3}


def make_record(
    method: str = "cdd",
    *,
    role: str = "student",
    dataset: str = "glyphs",
    seed: int = 0,
    mAP: float = 0.72,
    macs: float = 22e6,
    asymmetric: float | None = None,
    variant: str = "default",
    **changes: Any,
) -> Record:
    """A valid record; `variant` goes into the recipe, `changes` replaces top-level fields."""
    recipe = {"method": {"name": method}, "seed": seed, "variant": variant}
    recipe_hash = f"{dataset}/{method}/{role}/{seed}/{variant}"
    student = role == "student"
    content: dict[str, Any] = {
        "role": role,
        "id": Record.make_id(recipe_hash, role),
        "dataset": dataset,
        "method": method,
        "seed": seed,
        "recipe_hash": recipe_hash,
        "recipe": recipe,
        "created": "2030-01-02T03:04:05Z",
        "commit": None,
        "data": {
            "fingerprint": "f" * 64,
            "splits": {
                name: {"images": images, "identities": 500, "cameras": 16}
                for name, images in (("train", 14000), ("query", 1500), ("gallery", 5500))
            },
            "protocol": {"camera_rule": True, "query_in_gallery": False, "recall_at": [1, 5, 10]},
            "versions": {"matplotlib": "3.10.0"},
        },
        "network": {
            "name": "resnet26 32-64-128" if student else "resnet26 64-128-256",
            "embedding": 128,
            "cost": _cost(macs),
            "weights": "a" * 64,
        },
        "teacher": {
            "record": "0" * 12,
            "network": "resnet26 64-128-256",
            "cost": _cost(60e6),
            "scores": _scores(0.735),
        }
        if student
        else None,
        "scores": {
            "symmetric": _scores(mAP),
            "asymmetric": None if asymmetric is None else _scores(asymmetric),
            "asymmetric_reason": "embedding sizes differ (128 and 256)" if asymmetric is None else None,
        },
        "saved": {
            "parameters": 1 - macs / 60e6,
            "macs": 1 - macs / 60e6,
            "ceiling_parameters": None,
            "ceiling_macs": None,
        }
        if student
        else None,
        "deploy": {"max_abs_difference": 3e-6, "images": 64},
        "budget": None,
        "environment": {
            "python": "3.11.7",
            "torch": "2.9.0",
            "torchvision": "0.24.0",
            "timm": "1.0.20",
            "mmengine": "0.10.7",
            "numpy": "2.0.0",
            "platform": "Linux",
            "device": "cpu",
            "threads": 2,
            "precision": "float32",
        },
        "timing": {"train_seconds": 200.0, "evaluate_seconds": 12.0},
    }
    return Record.model_validate(content | changes)


@pytest.fixture
def record():
    """`record("kd", seed=1)` makes a record."""
    return make_record
