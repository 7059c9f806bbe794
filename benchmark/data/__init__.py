"""The dataset contract, samplers, transforms and loaders. Plain torch; usable alone."""

import os
from pathlib import Path


def default_data_root() -> Path:
    """Return the folder of the datasets if none is named: `$BENCHMARK_DATA`, or `~/.cache/benchmark` if it is unset."""
    return Path(os.environ.get("BENCHMARK_DATA", Path.home() / ".cache" / "benchmark"))
