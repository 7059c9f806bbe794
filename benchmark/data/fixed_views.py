"""Fixed views: augmentations whose random numbers depend on the image and the number of the view alone."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_STEP = 0x9E37_79B9_7F4A_7C15
"""Difference between the seeds of two views, before they are halved: 2^64 divided by the golden ratio."""


def view_seeds(contents: Sequence[str], views: int) -> Tensor:
    """Return the seeds of the augmentations of fixed views.

    They are the same for all methods, seeds of runs, workers and processes, wherever the image is in a dataset.

    Args:
        contents: The content hash of every image.
        views: Number of views of each image.

    Returns:
        (images, views) int64, not negative.
    """
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    first = np.array([int.from_bytes(digest[:8]) for digest in digests], dtype=np.uint64)
    steps = np.arange(views, dtype=np.uint64) * np.uint64(_STEP)  # modulo 2^64
    return torch.from_numpy(((first[:, None] + steps) >> np.uint64(1)).astype(np.int64))
