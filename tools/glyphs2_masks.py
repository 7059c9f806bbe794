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

from benchmark.datasets import glyphs

SEED = 2
TEST_IDENTITIES = 900
QUERY_FACES = glyphs.Glyphs.query_faces
SIDE = 16
"""Height and width of an image in pixels."""
OVERSAMPLING = 8
EM, BASELINE = 11.5, 11.9
"""Size of the typefaces and position of the baseline in pixels."""
ROTATION = 10.0
"""Maximum rotation in degrees, in either direction."""
SCALE = 0.8, 1.0
SHIFT = 1.0
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


def main() -> None:
    """Draw every character in every typeface that has it, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    characters = glyphs.characters()
    order = np.random.default_rng(SEED).permutation(sorted(characters)).tolist()
    test = set(order[-TEST_IDENTITIES:])
    labels: list[tuple[int, int, int]] = []
    masks: list[NDArray[np.uint8]] = []
    for identity in order:
        for face, character in sorted(characters[identity].items()):
            split = 0 if identity not in test else 1 if face in QUERY_FACES else 2
            labels.append((identity, face, split))
            masks.append(draw(character, face, np.random.default_rng([SEED, identity, face])))
    packed = np.stack(masks)
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
