"""Augmentation of single images."""

import pytest
import torch

from benchmark.data.decode import MEAN_COLOUR, eval_transform, train_transform

IMAGE = torch.arange(3 * 20 * 10, dtype=torch.int64).reshape(3, 20, 10).remainder(251).to(torch.uint8)


def views(count=50, **options):
    torch.manual_seed(0)
    transform = train_transform((20, 10), **options)
    return [transform(IMAGE) for _ in range(count)]


def test_nothing_is_the_identity():
    assert all(torch.equal(view, IMAGE) for view in views())


@pytest.mark.parametrize("options", [{"pad": 4}, {"flip": 0.5}, {"erase": 0.5}, {"pad": 2, "flip": 0.5, "erase": 0.5}])
def test_shape_and_type_stay_and_images_vary(options):
    seen = views(**options)
    assert all(view.shape == IMAGE.shape and view.dtype == torch.uint8 for view in seen)
    assert len({view.numpy().tobytes() for view in seen}) > 1


def test_crops_are_shifts_of_the_padded_image():
    padded = torch.nn.functional.pad(IMAGE, (3, 3, 3, 3))
    shifts = {padded[:, y : y + 20, x : x + 10].numpy().tobytes() for y in range(7) for x in range(7)}
    assert {view.numpy().tobytes() for view in views(500, pad=3)} == shifts


def test_edge_padding_repeats_the_border():
    white = torch.full((3, 20, 10), 255, dtype=torch.uint8)
    transform = train_transform((20, 10), pad=4, pad_mode="edge")
    assert all((transform(white) == 255).all() for _ in range(20))


def test_flip_probability():
    assert all(torch.equal(view, IMAGE.flip(-1)) for view in views(flip=1.0))


def test_erasing_paints_the_mean_colour_over_a_rectangle():
    mean = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]
    for view in views(erase=1.0):
        changed = (view != IMAGE).any(0)
        assert 0 < changed.float().mean() <= 0.45
        assert torch.equal(view, torch.where(changed, mean, IMAGE))


def test_evaluation_resizes_any_shape():
    assert eval_transform((8, 8))(IMAGE).shape == (3, 8, 8)
    assert torch.equal(eval_transform((20, 10))(IMAGE), IMAGE)
