import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="torch has no devices in Python before 2.10",
)
HERE = Path(__file__).parent


def test_another_device_gives_the_same_scores():
    """In a process of its own: there is no way back to a torch without that device."""
    done = subprocess.run([sys.executable, HERE / "score_elsewhere.py"], stdout=subprocess.PIPE, text=True, check=True)
    by_protocol = json.loads(done.stdout)
    assert len(by_protocol) == 8
    for protocol, compared in by_protocol.items():
        assert 0.1 < compared["mAP"] < 0.9, protocol
        assert compared["apart"] == 0, protocol
        # Metrics, Precision@1, 5 and 10, and what five neighbours are; a few numbers of all queries together.
        assert 24 <= compared["returned"] < 25 or protocol == "re-ranking", protocol  # whose codes are the CPU's


def test_a_tensor_elsewhere_is_not_mixed_with_one_here():
    mixed = "import torch; from elsewhere import HERE; torch.ones(2) + torch.ones(2, device=HERE)"
    failed = subprocess.run([sys.executable, "-c", mixed], capture_output=True, text=True, cwd=HERE)
    assert "aten.add.Tensor of tensors on two devices" in failed.stderr
