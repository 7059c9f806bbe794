"""Decoding of every kind of image file."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.contents import headers
from benchmark.data.decode import BrokenImage, decode

RGB = (200, 120, 30)
RESTORE = "Restore it from the archive"
CONVERT = "Convert it to JPEG or PNG"
COLORED = np.full((64, 48, 3), RGB, np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def mean_error(pixels: torch.Tensor) -> float:
    """Largest difference of a channel's mean from `RGB`."""
    return float((pixels.float().mean((1, 2)) - torch.tensor(RGB)).abs().max())


def test_jpeg(tmp_path):
    pixels = decode(save(tmp_path / "a.jpg", Image.fromarray(COLORED), quality=95))
    assert (pixels.shape, pixels.dtype) == ((3, 64, 48), torch.uint8)
    assert mean_error(pixels) < 2


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"
    image = Image.fromarray(COLORED)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    pixels = decode(save(tmp_path / name, image))
    assert (pixels.shape, pixels.dtype) == ((3, 64, 48), torch.uint8)
    if mode in ("P", "RGBA", "CMYK", "YCbCr"):
        assert mean_error(pixels) < 8


def test_transparent_palette(tmp_path, recwarn):
    image = Image.fromarray(COLORED).quantize(4)
    pixels = decode(save(tmp_path / "a.png", image, transparency=bytes([255, 0, 128, 255])))
    assert pixels[:, 0, 0].tolist() == list(RGB)
    assert not recwarn.list


def encoded(name: str) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(COLORED).save(buffer, format=name, exif=exif)
    return buffer.getvalue()


class TestTransparency:
    """Colors under transparent pixels are arbitrary: the background replaces them."""

    HIDDEN, SHOWN = (1, 2, 3), (200, 120, 30)

    @pytest.fixture(params=["RGBA", "LA", "P", "RGB", "L", "I;16", "webp", "tif", "gif"])
    def path(self, request, tmp_path):
        """An image whose left half is transparent and whose right half is opaque."""
        kind, suffix = (request.param, "png") if request.param[0].isupper() else ("RGBA", request.param)
        image, options = Image.new("RGBA", (8, 4), (*self.HIDDEN, 0)), {"webp": {"lossless": True}}.get(suffix, {})
        image.paste((*self.SHOWN, 255), (4, 0, 8, 4))
        if kind == "LA":
            image = image.convert("LA")
        elif kind == "P":
            image = image.quantize(4)
        elif kind in ("RGB", "L"):
            image = image.convert(kind)
            options = {"transparency": image.getpixel((0, 0))}
        elif kind == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
            options = {"transparency": image.getpixel((0, 0))}
        return save(tmp_path / f"a.{suffix}", image, **options)

    def test_background_shows_through(self, path):
        white, red = decode(path), decode(path, background=(255, 0, 0))
        assert (white[:, :, :4] == 255).all()
        assert red[:, 0, 0].tolist() == [255, 0, 0]
        assert torch.equal(white[:, :, 4:], red[:, :, 4:])
        assert (white[:, :, 4:] < 255).all()
        assert headers([path])[0].transparent

    def test_half_transparent_pixels_are_mixed(self, tmp_path):
        pixels = decode(save(tmp_path / "a.png", Image.new("RGBA", (2, 2), (100, 0, 50, 128))), background=(0, 0, 0))
        assert pixels[:, 0, 0].tolist() == [50, 0, 25]

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L"])
    def test_opaque_pixels_do_not_change(self, tmp_path, mode):
        noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8)).convert(mode)
        path = save(tmp_path / "a.png", noise)
        expected = torch.from_numpy(np.array(noise.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(decode(path, background=(9, 8, 7)), expected)


def with_chunk(name: bytes, data: bytes, checksum: bytes | None = None) -> bytes:
    """A PNG file with a chunk before its pixels."""
    content = encoded("PNG")
    chunk = struct.pack(">I", len(data)) + name + data + (checksum or struct.pack(">I", zlib.crc32(name + data)))
    return content[:33] + chunk + content[33:]


def with_segment(marker: int, data: bytes) -> bytes:
    """A JPEG file with an application segment before its pixels."""
    content = encoded("JPEG")
    return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + content[2:]


@pytest.mark.parametrize(
    ("content", "upright"),
    [
        (with_chunk(b"eXIf", b"not TIFF"), False),
        (with_chunk(b"eXIf", b""), False),
        (with_chunk(b"iCCP", b"name\0\7broken"), True),
        (with_chunk(b"iCCP", b"name"), True),
        (with_chunk(b"pHYs", b"\0"), True),
        (with_chunk(b"tEXt", b"a\0b", b"bad!"), True),
        (with_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2**27)), True),
        (with_segment(0xE1, b"Exif\0\0broken"), False),
        (with_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\0"), True),
        (with_segment(0xE2, b"ICC_PROFILE\0"), True),
        (with_segment(0xE2, b"MPF\0broken"), True),
    ],
)
def test_damaged_metadata_are_ignored(tmp_path, content, upright):
    (tmp_path / "a").write_bytes(content)
    pixels = decode(tmp_path / "a")
    assert mean_error(pixels) < 2
    assert pixels.shape[1:] == (48, 64) or not upright, "the orientation is still read"


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not one of .*, but PostScript", CONVERT),
        (b"\0\0\0\x18ftypheic", "but HEIC", CONVERT),
        (b"\0\0\0\x1cftypavif", "but AVIF", CONVERT),
        (b"\0\0\0\x18ftypisom", "but a video", "Save a frame of it as JPEG or PNG"),
        (b"<!DOCTYPE html>", "but text such as HTML", "Download it again"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "but SVG", CONVERT),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "Run `git lfs pull` in its repository"),
        (b"\x1f\x8b\x08", "but a gzip archive", "Unpack it"),
        (b"", "the file is empty", RESTORE),
        (b"\x89PNG\r\n\x1a\n", "it is damaged", RESTORE),
        (b"\0" * 100, "it is not one of JPEG", RESTORE),
        (b'{"error": "rate limit"}', "it is not one of JPEG", RESTORE),
    ],
)
def test_kind_of_other_files(tmp_path, content, kind, remedy, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BrokenImage, match=rf"a\.jpg cannot be read: .*{kind}") as raised:
        decode(tmp_path / "a.jpg")
    assert raised.value.remedy == remedy


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_to_8(tmp_path, name):
    ramp = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) * 21
    pixels = decode(save(tmp_path / name, Image.fromarray(ramp)))
    assert torch.equal(pixels[0], torch.from_numpy((ramp // 257).astype(np.uint8)))
    assert torch.equal(pixels[0], pixels[2])


@pytest.mark.parametrize("array", [np.full((4, 4), 2**20, np.int32), np.full((4, 4), 0.5, np.float32)])
def test_rejects_other_pixel_types(tmp_path, array):
    path = save(tmp_path / "a.tif", Image.fromarray(array))
    with pytest.raises(BrokenImage, match=r"a\.tif cannot be read: it has"):
        decode(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("min_size", [None, (8, 8)])
def test_exif_orientation(tmp_path, orientation, min_size):
    """However the camera was held, the same scene appears: a bright upper left corner."""
    scene = np.zeros((64, 48), np.uint8)
    scene[:32, :24] = 255
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.T,
        6: np.rot90(scene),
        7: scene[::-1, ::-1].T,
        8: np.rot90(scene, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(save(tmp_path / "a.jpg", Image.fromarray(stored.copy()), exif=exif), min_size)[0].float()
    height, width = pixels.shape
    assert height > width
    assert pixels[: height // 2 - 1, : width // 2 - 1].mean() > 240
    assert pixels[height // 2 + 1 :].mean() < 15
    assert pixels[:, width // 2 + 1 :].mean() < 15


@pytest.mark.parametrize(
    ("min_size", "factor"),
    [((401, 300), 1), ((201, 200), 1), ((200, 300), 2), ((120, 40), 2), ((100, 150), 4), ((64, 64), 4), ((8, 8), 8)],
)
def test_large_jpeg_is_decoded_at_reduced_size(tmp_path, min_size, factor):
    smooth = np.random.default_rng(0).integers(256, size=(5, 5, 3), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(smooth).resize((600, 400), Image.Resampling.BICUBIC), quality=95)
    reduced = decode(path, min_size)
    assert reduced.shape == (3, 400 // factor, 600 // factor)
    averaged = torch.nn.functional.avg_pool2d(decode(path).float(), factor)
    assert (reduced.float() - averaged).abs().mean() < 2


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"not an image", b"\xff\xd8\xff\xe0" + b"\0" * 100])
def test_rejects_what_is_not_an_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenImage, match=r"a\.jpg cannot be read"):
        decode(path)


def test_rejects_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(BrokenImage, match="cannot be read"):
            decode(path)


def test_rejects_images_that_are_too_large(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(COLORED))
    monkeypatch.setattr("benchmark.data.decode.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(BrokenImage, match=r"it has 48 x 64 pixels, which is more than") as raised:
        decode(path, min_size=(8, 8))
    assert raised.value.remedy == "Scale it down"
    jpeg = save(tmp_path / "a.jpg", Image.fromarray(COLORED))
    assert decode(jpeg, min_size=(8, 8)).shape == (3, 16, 12), "a JPEG is reduced first"


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_truncated_file_gives_the_complete_image_or_an_error(tmp_path, name):
    content, path = encoded(name), tmp_path / "a"
    path.write_bytes(content)
    complete, failures = decode(path), 0
    lengths = range(0, len(content), 5)
    for length in lengths:
        path.write_bytes(content[:length])
        try:
            assert torch.equal(decode(path), complete)
        except BrokenImage:
            failures += 1
    assert failures > 0.8 * len(lengths)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([encoded(name) for name in ("JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP")]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12),
    st.sampled_from([None, (8, 8)]),
)
def test_damaged_file_gives_an_image_or_a_broken_image_error(tmp_path_factory, content, changes, min_size):
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        assert decode(path, min_size).shape[0] == 3
    except BrokenImage as error:
        assert str(path) in str(error)
