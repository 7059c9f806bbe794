"""Datasets and loaders: the dataset contract, its checks, image decoding, samplers and loaders.

Plain torch, usable without the rest of the suite.
"""

import os
from pathlib import Path


def default_data_root() -> Path:
    """Return the folder of all datasets: `$BENCHMARK_DATA`, or `~/.cache/benchmark` if the variable is not set."""
    return Path(os.environ.get("BENCHMARK_DATA", Path.home() / ".cache" / "benchmark"))
