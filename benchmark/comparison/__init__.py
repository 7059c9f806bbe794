"""Finished runs side by side: their figures, their recipes, how they learned, and query by query."""

from benchmark.comparison.compared_run import ComparedRun
from benchmark.comparison.figures import figures_table
from benchmark.comparison.opening import open_runs
from benchmark.comparison.picture import SUFFIXES, draw
from benchmark.comparison.query_gains import QueryGains, why_unpaired
from benchmark.comparison.recipes import recipe_table

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
