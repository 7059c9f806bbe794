"""Capacity dynamic distillation: the method is in `cdd.py`, its parts in the other files."""

from .cdd import CDD as CDD
