"""Decoding of every kind of image file."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.decode import BrokenImage, decode

RGB = (200, 120, 30)
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


def test_rejects_decompression_bombs(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(COLORED))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImage, match="decompression bomb"):
        decode(path)


def encoded(name: str) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(COLORED).save(buffer, format=name, exif=exif)
    return buffer.getvalue()


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


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about invalid tags
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
