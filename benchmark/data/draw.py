"""What a training sampler yields."""

from typing import NamedTuple


class Draw(NamedTuple):
    """One image of a batch, with the randomness of its augmentation."""

    position: int
    """Of the image in the training list."""
    seed: int
    """Seeds the augmentation of this one draw."""
