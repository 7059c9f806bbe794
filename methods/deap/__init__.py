"""DEAP: the method in `deap`, the sites of its first pruner in `column_site`."""

from .deap import DEAP as DEAP
