"""DEAP: the method is in `deap.py`, its first pruner in the other file."""

from .deap import DEAP as DEAP
