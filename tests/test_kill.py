"""A sample of the kill campaign: a run that is killed at random moments ends with the result of an undisturbed one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "tools" / "kill_campaign.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")
@pytest.mark.parametrize(("kind", "trials"), [("run", 30), ("records", 40)])
def test_random_moments(kind, trials):
    command = [sys.executable, str(CAMPAIGN), "--kind", kind, "--trials", str(trials), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert (counted["trials"], counted["faults"], counted["losses"]) == (trials, 0, 0)
    assert counted["records"] > 0
