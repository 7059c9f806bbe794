"""Hashes of what an image shows, whatever its file format or compression."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def pixel_hash(path: Path) -> str:
    """SHA-256 of the size and the RGB pixels of an image file."""
    with Image.open(path) as image:
        return array_hash(np.asarray(image.convert("RGB")))


def array_hash(pixels: np.ndarray) -> str:
    """SHA-256 of (H, W, 3) uint8 pixels; equal to `pixel_hash` of a lossless file of them."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def fingerprint(hashes: Mapping[str, str]) -> str:
    """One SHA-256 over file names and their hashes, in sorted order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
