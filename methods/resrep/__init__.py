"""ResRep: the method in `resrep`, the choice of masked rows in `masking`."""

from .resrep import ResRep as ResRep
