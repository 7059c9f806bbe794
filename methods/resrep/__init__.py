"""ResRep: the method is in `resrep.py`, its parts in the other files."""

from .resrep import ResRep as ResRep
