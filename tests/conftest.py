"""Fixtures shared by all tests."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


@dataclass
class Golden:
    """A file of values computed with the authors' original code; see tests/golden/README.md."""

    arrays: Any
    meta: dict[str, Any]

    @property
    def cases(self) -> list[str]:
        return [str(name) for name in self.arrays["cases"]]

    def inputs(self, case: str) -> dict[str, torch.Tensor]:
        """The input arrays of a loss case, by name."""
        prefix = f"in/{self.meta[case]['inputs']}/"
        return {
            key.removeprefix(prefix): torch.from_numpy(self.arrays[key])
            for key in self.arrays.files
            if key.startswith(prefix)
        }

    def check(self, case: str, loss: torch.Tensor, **gradients: torch.Tensor) -> None:
        """Compare a loss and its gradients (`student=...` against `grad_student`) at the stated tolerance."""
        meta = self.meta[case]
        expected = float(self.arrays[f"{case}/loss"])
        assert abs(loss.item() - expected) <= 1e-12 + meta["rtol_loss"] * abs(expected)
        for name, gradient in gradients.items():
            key = f"{case}/grad_{name}"
            if key not in self.arrays.files:  # the reference's own gradient is meaningless there
                continue
            reference = self.arrays[key]
            tolerance = 1e-12 + meta["rtol_grad"][name] * np.abs(reference).max()
            assert np.abs(gradient.numpy() - reference).max() <= tolerance


def load_golden(name: str) -> Golden:
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    meta = json.loads(str(arrays["meta"])) if "meta" in arrays.files else {}
    return Golden(arrays, meta)


@pytest.fixture
def golden():
    """`golden("kd")` loads tests/golden/kd.npz."""
    return load_golden
