"""Capacity dynamic distillation: the method in `cdd`, its retrieval-guided gradient resetting in `gradient_reset`."""

from .cdd import CDD as CDD
