"""Evaluation on a device other than the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="torch has no devices in Python before 2.10",
)
def test_other_device_gives_the_same_scores():
    """In a separate process, because the fake device cannot be unregistered."""
    script = Path(__file__).parent / "score_on_fake_device.py"
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
    by_protocol = json.loads(done.stdout)
    assert len(by_protocol) == 8
    for protocol, comparison in by_protocol.items():
        assert 0.1 < comparison["mAP"] < 0.9, protocol
        assert comparison["difference"] == 0, protocol
        # 6 scores, 3 precisions, 5 neighbors of 3 numbers; and a few numbers in all. Re-ranking encodes on the CPU.
        assert 24 <= comparison["copied"] < 25 or protocol == "re-ranking", protocol
