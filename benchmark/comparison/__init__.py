"""Comparison of finished runs: scores and costs, recipes, training curves, and average precision of every query."""

from benchmark.comparison.compare import (
    ComparedRun,
    QueryGains,
    open_runs,
    recipe_table,
    results_table,
    unpaired_reason,
)
from benchmark.comparison.plot import SUFFIXES, plot_comparison

__all__ = [
    "SUFFIXES",
    "ComparedRun",
    "QueryGains",
    "open_runs",
    "plot_comparison",
    "recipe_table",
    "results_table",
    "unpaired_reason",
]
