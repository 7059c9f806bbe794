"""Finished runs side by side: their figures, their recipes, how they learned, and query by query."""

from benchmark.comparison.compare import ComparedRun, QueryGains, figures_table, open_runs, recipe_table, why_unpaired
from benchmark.comparison.plot import SUFFIXES, draw

__all__ = [
    "SUFFIXES",
    "ComparedRun",
    "QueryGains",
    "draw",
    "figures_table",
    "open_runs",
    "recipe_table",
    "why_unpaired",
]
