import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def comparisons():
    """In a process of its own: there is no way back to a torch without that device."""
    script = Path(__file__).parent / "score_elsewhere.py"
    return json.loads(subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    "protocol",
    [
        "camera rule",
        "optimistic ties",
        "one list",
        "streamed",
        "tracks",
        "several queries",
        "junk and distractors",
        "expansion",
        "re-ranking",
    ],
)
def test_another_device_gives_the_same_scores(comparisons, protocol: str):
    compared = comparisons[protocol]
    assert 0.1 < compared["mAP"] < 0.9
    assert compared["apart"] == 0
    if protocol != "re-ranking":  # whose codes are the CPU's
        per_query = 6 + 3 + 3 * 5  # metrics, Precision@1, 5 and 10, and of five neighbours what they are
        assert compared["returned"] == per_query


def test_a_tensor_elsewhere_is_not_mixed_with_one_here():
    mixed = "import torch; from elsewhere import HERE; torch.ones(2) + torch.ones(2, device=HERE)"
    failed = subprocess.run([sys.executable, "-c", mixed], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert "aten.add.Tensor of tensors on two devices" in failed.stderr
