"""`tools/gpu_check.py` on the CPU: every check runs and finds nothing wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent.parent / "tools" / "gpu_check.py"


@pytest.mark.slow
def test_checks_on_the_cpu(data_root, tmp_path):
    command = [sys.executable, str(TOOL), "--cpu", "--data-root", str(data_root), "--output", str(tmp_path / "a.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["size"], report["missed"]) == ("small", [])
    checks = {name: check["values"] for name, check in report["checks"].items()}
    assert list(checks) == ["scores", "deployed", "steps", "runner", "processes", "tests"]
    assert set(checks["steps"]) == {f"{name}, {amp}" for name in ("none", "kd", "cdd") for amp in ("bf16", "fp16")}
    step = checks["steps"]["cdd, bf16"]
    assert step["queue_filled"] == 240
    assert 0 < step["reset_share"] < 1
    assert checks["processes"]["processes"] == 2
    assert "skipped" in checks["tests"]["summary"]
    for name in ("scores", "runner"):
        assert f"{name} " in done.stdout
