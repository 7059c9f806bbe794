"""Decoding, resizing and augmenting images."""

from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor, nn

from benchmark.data.contents import open_image
from benchmark.data.files import FORMATS
from benchmark.errors import UserError
from benchmark.utils.escape import terminal

IMAGENET_MEAN_COLOR = (124, 116, 104)
"""Mean RGB color of ImageNet, the fill color of random erasing."""
MAX_PIXELS = 2**28
"""Largest number of pixels that are decoded, because a small file can state a size that fills the memory."""
Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
WHITE: Color = (255, 255, 255)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright."""
_SIDEWAYS = range(5, 9)
"""EXIF orientations that swap width and height."""
_CRITICAL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
"""Chunks of a PNG file that determine its pixels and orientation."""
_ANNOTATION_MARKERS = frozenset({*range(0xE2, 0xEE), 0xEF, 0xFE})
"""Markers of the parts of a JPEG file that do not change its pixels: all but JFIF, EXIF and Adobe's color transform."""
_START_OF_PIXELS = b"\xda"
"""Marker of the part of a JPEG file that holds pixels."""
_RESTORE = "Restore it from the archive"
_CONVERT = "Convert it to JPEG or PNG"
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer", "Run `git lfs pull` in its repository"),
    (b"%!PS", "PostScript", _CONVERT),
    (b"%PDF", "PDF", _CONVERT),
    (b"<svg", "SVG", _CONVERT),
    (b"<", "text such as HTML, for example the error page of a failed download", "Download it again"),
    (b"PK\3\4", "a zip archive", "Unpack it"),
    (b"\x1f\x8b", "a gzip archive", "Unpack it"),
    (b"8BPS", "a Photoshop file", _CONVERT),
    (b"\0\0\0\x0cjP", "JPEG 2000", _CONVERT),
    (b"\0\0\0\x0cJXL", "JPEG XL", _CONVERT),
    (b"\xff\x0a", "JPEG XL", _CONVERT),
)
"""First bytes of a file, what it seems to be, and what to do about it."""
_BRANDS = {b"hei": "HEIC", b"hev": "HEIC", b"mif": "HEIC", b"avi": "AVIF"}
"""First letters of the brand in a file of the MP4 family -> the format of an image; others are videos."""
_OWN_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*", b"GIF8", b"BM")
"""First bytes of files in one of `FORMATS`."""


class BrokenImage(UserError):
    """An image file that cannot be decoded.

    Attributes:
        remedy: What to do about it, as the beginning of a sentence.
    """

    def __init__(self, message: str, remedy: str = _RESTORE) -> None:
        super().__init__(message)
        self.remedy = remedy


def decode(path: Path, min_size: tuple[int, int] | None = None, background: Color = WHITE) -> Tensor:
    """Decode an image file to a (3, H, W) uint8 RGB tensor, upright according to its EXIF orientation.

    Grayscale, palette and CMYK images are converted to RGB, transparent images are composited on a background, and 16
    bits per channel are reduced to 8. Damaged metadata are ignored.

    Args:
        path: The image file, in one of `FORMATS`.
        min_size: (height, width) in pixels that the caller needs; None for the full size. A JPEG of at least twice
            that size is decoded at 1/2, 1/4 or 1/8 of its size, which takes a fraction of the time.
        background: What shows through transparent pixels.

    Raises:
        BrokenImage: The file is missing, damaged, in another format or too large.
    """
    try:
        try:
            pixels = _pixels(path, min_size, background)
        except (BrokenImage, FileNotFoundError, PermissionError, IsADirectoryError, MemoryError):
            raise
        except Exception:  # damaged, perhaps only in parts that do not matter
            content = _without_annotations(path.read_bytes())
            if content is None:
                raise
            pixels = _pixels(BytesIO(content), min_size, background)
    except BrokenImage as error:
        raise BrokenImage(f"image {terminal(str(path))} cannot be read: {error}", error.remedy) from error
    except UnidentifiedImageError as error:
        kind, remedy = _kind(path)
        raise BrokenImage(f"image {terminal(str(path))} cannot be read: {kind}", remedy) from error
    except MemoryError:  # the image may be intact
        raise
    except Exception as error:  # Pillow raises many types of errors for damaged files
        reason = getattr(error, "strerror", None) or "it is damaged or incomplete"
        raise BrokenImage(f"image {terminal(str(path))} cannot be read: {terminal(reason)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def from_pillow(image: Image.Image, background: Color = WHITE) -> Tensor:
    """Convert an image of Pillow as `decode` does that of a file: to a (3, H, W) uint8 RGB tensor, upright.

    Args:
        image: The image, which is not changed.
        background: What shows through transparent pixels.

    Raises:
        BrokenImage: The file from which Pillow reads the image is damaged, or the image has floating-point pixels or
            too many.
    """
    try:
        return torch.from_numpy(_upright_rgb(image, background)).permute(2, 0, 1)
    except BrokenImage as error:
        raise BrokenImage(f"the image cannot be read: {error}", error.remedy) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow reads the pixels only now, and raises many types of errors
        raise BrokenImage("the image cannot be read: it is damaged or incomplete") from error


def eval_transform(size: tuple[int, int]) -> nn.Module:
    """Return the transform for evaluation: resize a (3, H, W) uint8 image to (height, width)."""
    from torchvision.transforms import v2  # takes a second to import

    return v2.Resize(size, antialias=True)


def _pixels(file: Path | IO[bytes], min_size: tuple[int, int] | None, background: Color) -> np.ndarray:
    """Decode a file to (H, W, 3) uint8 RGB."""
    with open_image(file) as image:
        if min_size is not None and image.format == "JPEG":
            height, width = reversed(min_size) if _orientation(image) in _SIDEWAYS else min_size
            image.draft(None, (width, height))
        return _upright_rgb(image, background)


def _upright_rgb(image: Image.Image, background: Color) -> np.ndarray:
    """Return the pixels of an image as (H, W, 3) uint8 RGB, upright."""
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImage(
            f"it has {image.width:,} x {image.height:,} pixels, which is more than {MAX_PIXELS / 1e6:,.0f} million",
            "Scale it down",
        )
    image.load()  # in a PNG, the orientation may follow the pixels
    operation = _UPRIGHT.get(_orientation(image))
    return np.array(_to_rgb(image if operation is None else image.transpose(operation), background))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) if there is none or the metadata are damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of many types
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image, background: Color) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BrokenImage("it has more than 16 bits per channel", "Convert it to 8 or 16 bits")
        gray = Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
        if isinstance(transparent := image.info.get("transparency"), int):
            gray.paste(background, mask=Image.fromarray((values == transparent).astype(np.uint8) * 255))
        return gray
    if image.mode == "F":
        raise BrokenImage("it has floating-point pixels", "Convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")


def _without_annotations(content: bytes) -> bytes | None:
    """Return a PNG or JPEG file without color profiles, comments and previews; None for other formats."""
    if content.startswith(b"\x89PNG"):
        parts, place = [content[:8]], 8
        while place < len(content):
            end = place + 12 + int.from_bytes(content[place : place + 4])  # length, name, data, checksum
            if content[place + 4 : place + 8] in _CRITICAL_CHUNKS:
                parts.append(content[place:end])
            place = end
        return b"".join(parts)
    if content.startswith(b"\xff\xd8\xff"):
        parts, place = [content[:2]], 2
        while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
            length = int.from_bytes(content[place + 2 : place + 4])
            if length < 2:
                return None
            end = place + 2 + length
            if content[place + 1] not in _ANNOTATION_MARKERS:
                parts.append(content[place:end])
            place = end
        return b"".join((*parts, content[place:]))
    return None


def _kind(path: Path) -> tuple[str, str]:
    """Return a clause about a file that is in none of `FORMATS`, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        return "it is damaged: the file is empty", _RESTORE
    if start.startswith(_OWN_SIGNATURES):
        return "it is damaged", _RESTORE
    kind, remedy = "", _RESTORE
    if start[4:8] == b"ftyp":
        image = _BRANDS.get(start[8:11])
        kind, remedy = (image, _CONVERT) if image else ("a video", "Save a frame of it as JPEG or PNG")
    for signature, name, what in _SIGNATURES:
        if not kind and start.lstrip().startswith(signature):
            kind, remedy = name, what
    return f"it is not one of {', '.join(FORMATS)}" + (f", but {kind}" if kind else ""), remedy
