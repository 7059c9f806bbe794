"""What a training sampler yields."""

from typing import NamedTuple


class Draw(NamedTuple):
    """One image of a batch, with the randomness of its augmentation."""

    index: int
    """Position in the training list."""
    seed: int
    """Seeds the augmentation of this one draw."""
