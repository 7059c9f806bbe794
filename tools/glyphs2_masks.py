"""Draw the shapes of the dataset glyphs2, which the package contains as `datasets/glyphs2.npz`.

    python tools/glyphs2_masks.py datasets/glyphs2.npz

The file is drawn once and never again: another version of a library may draw other shapes, which would be another
dataset. The tool documents how it was made.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from benchmark.datasets import glyphs

SEED = 2
IDENTITIES, TEST_IDENTITIES = 1400, 450
QUERY_FACES = glyphs.Glyphs.query_faces
SIDE = 16
"""Height and width of an image in pixels."""
OVERSAMPLING = 8
EM, BASELINE = 12.0, 12.4
"""Size of the typefaces and position of the baseline in pixels."""
ROTATION = 7.0
"""Maximum rotation in degrees, in either direction."""
SCALE = 0.88, 1.0
SHIFT = 0.8
"""Maximum shift in pixels."""
WIDEST = 0.94
"""Maximum width of a character relative to the image."""


def draw(character: str, face: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the coverage of every pixel by ink: (SIDE, SIDE), from 0 to 15."""
    font = glyphs._font(face, round(EM * OVERSAMPLING))
    side = SIDE * OVERSAMPLING
    left, _, right, _ = font.getbbox(character, anchor="ls")
    canvas = Image.new("L", (2 * side, 2 * side))
    origin = (side - (left + right) / 2, side / 2 + BASELINE * OVERSAMPLING)
    ImageDraw.Draw(canvas).text(origin, character, fill=255, font=font, anchor="ls")
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    scale = rng.uniform(*SCALE) * min(1.0, WIDEST * side / (right - left))
    shift = rng.uniform(-SHIFT, SHIFT, 2) * OVERSAMPLING
    inverse = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    offset = side - inverse @ (side / 2 + shift)
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    canvas = canvas.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    coverage = np.asarray(canvas.reduce(OVERSAMPLING), np.uint16)
    return ((coverage * 15 + 127) // 255).astype(np.uint8)


def distinct(shapes: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Return the positions of shapes that differ from each other: one of the most similar pair is left out repeatedly.

    Args:
        shapes: (N, SIDE, SIDE) mean masks.
        count: Number of shapes to keep.
    """
    features = gaussian_filter(shapes, (0, 0.7, 0.7)).reshape(len(shapes), -1)
    distance = cdist(features, features)
    np.fill_diagonal(distance, np.inf)
    kept = np.arange(len(shapes))
    while len(kept) > count:
        position = distance.argmin() // len(kept)
        kept = np.delete(kept, position)
        distance = np.delete(np.delete(distance, position, 0), position, 1)
    return kept


def main() -> None:
    """Draw every character in every typeface that has it, select distinct characters, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    characters = glyphs.characters()
    drawn = {
        identity: {
            face: draw(character, face, np.random.default_rng([SEED, identity, face]))
            for face, character in sorted(characters[identity].items())
        }
        for identity in sorted(characters)
    }
    shapes = np.stack([np.mean(list(masks.values()), 0) for masks in drawn.values()])
    identities = np.array(list(drawn))[distinct(shapes, IDENTITIES)]
    order = np.random.default_rng(SEED).permutation(identities).tolist()
    test = set(order[-TEST_IDENTITIES:])
    labels: list[tuple[int, int, int]] = []
    drawings: list[NDArray[np.uint8]] = []
    for identity in order:
        for face, mask in drawn[identity].items():
            labels.append((identity, face, 0 if identity not in test else 1 if face in QUERY_FACES else 2))
            drawings.append(mask)
    packed = np.stack(drawings)
    identity, camera, split = np.array(labels).T
    np.savez_compressed(
        output,
        masks=packed[..., ::2] << 4 | packed[..., 1::2],
        identity=identity.astype(np.uint32),
        camera=camera.astype(np.uint8),
        split=split.astype(np.uint8),
    )


if __name__ == "__main__":
    main()
