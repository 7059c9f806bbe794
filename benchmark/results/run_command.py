"""How a leaderboard is added to."""

import json
import shlex

from benchmark.results.record import Record


def run_command(method: str, record: Record) -> str:
    """The command that runs a method, first seed, by the default recipe on the leaderboard that a record is on."""
    options = "".join(f" --set {_setting(key, value)}" for key, value in sorted(record.variant.items()))
    return f"benchmark run --method {method} --dataset {record.dataset}{options} --seed 0"


def _setting(key: str, value: object) -> str:
    return shlex.quote(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
