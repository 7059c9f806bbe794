"""Augmentation and resizing of single images."""

import pytest
import torch
from torchvision.transforms.v2 import RandomCrop

from benchmark.data.augment import train_transform
from benchmark.data.decode import IMAGENET_MEAN_COLOR, eval_transform
from benchmark.errors import UserError

IMAGE = torch.arange(3 * 20 * 10, dtype=torch.int64).reshape(3, 20, 10).remainder(251).to(torch.uint8)


def augmented(count=50, **options):
    torch.manual_seed(0)
    transform = train_transform((20, 10), **options)
    return [transform(IMAGE) for _ in range(count)]


def test_identity_without_options():
    assert all(torch.equal(view, IMAGE) for view in augmented())


@pytest.mark.parametrize("options", [{"pad": 4}, {"flip": 0.5}, {"erase": 0.5}, {"pad": 2, "flip": 0.5, "erase": 0.5}])
def test_keeps_shape_and_dtype(options):
    views = augmented(**options)
    assert all(view.shape == IMAGE.shape and view.dtype == torch.uint8 for view in views)
    assert len({view.numpy().tobytes() for view in views}) > 1


def test_crops_are_shifts_of_the_padded_image():
    padded = torch.nn.functional.pad(IMAGE, (3, 3, 3, 3))
    shifts = {padded[:, y : y + 20, x : x + 10].numpy().tobytes() for y in range(7) for x in range(7)}
    assert {view.numpy().tobytes() for view in augmented(500, pad=3)} == shifts


@pytest.mark.parametrize("pad", [1, 3, 9])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_crops_equal_those_of_torchvision(mode, pad):
    ours, theirs = train_transform((20, 10), pad=pad, pad_mode=mode), RandomCrop((20, 10), pad, padding_mode=mode)
    for seed in range(20):
        torch.manual_seed(seed)
        crop, state = ours(IMAGE), torch.get_rng_state()
        torch.manual_seed(seed)
        assert torch.equal(crop, theirs(IMAGE)) and torch.equal(state, torch.get_rng_state())


def test_edge_padding_repeats_the_border():
    white = torch.full((3, 20, 10), 255, dtype=torch.uint8)
    transform = train_transform((20, 10), pad=4, pad_mode="edge")
    assert all((transform(white) == 255).all() for _ in range(20))


def test_named_transforms():
    spec = (
        {"type": "RandomResizedCrop", "size": [20, 10], "scale": [0.5, 1.0], "interpolation": "bicubic"},
        {"type": "RandomApply", "transforms": [{"type": "ColorJitter", "brightness": 0.5}], "p": 0.5},
        {"type": "AutoAugment", "policy": "imagenet"},
    )
    views = augmented(transforms=spec)
    assert all(view.shape == IMAGE.shape and view.dtype == torch.uint8 for view in views)
    assert len({view.numpy().tobytes() for view in views}) > 40
    jitter = augmented(1, transforms=[{"type": "RandomVerticalFlip", "p": 1.0}])
    assert torch.equal(jitter[0], IMAGE.flip(-2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "RandomResizeCrop"}, "v2 has no 'RandomResizeCrop'; did you mean 'RandomResizedCrop'"),
        ({"type": "Transform"}, "v2 has no 'Transform'"),
        ({"type": "ColorJitter", "bright": 1}, "ColorJitter: .*'bright'.*; it has"),
        ({"type": "AutoAugment", "policy": "coco"}, "AutoAugment: 'coco' is not a valid"),
        ({"type": "Resize", "size": 3, "interpolation": "best"}, "Resize: 'best' is not a valid"),
    ],
)
def test_impossible_transforms(spec, message):
    with pytest.raises(UserError, match=message):
        train_transform((20, 10), transforms=[spec])


def test_flip_is_horizontal():
    assert all(torch.equal(view, IMAGE.flip(-1)) for view in augmented(flip=1.0))


def test_erasing_fills_a_rectangle_with_the_mean_color():
    mean = torch.tensor(IMAGENET_MEAN_COLOR, dtype=torch.uint8)[:, None, None]
    for view in augmented(erase=1.0):
        changed = (view != IMAGE).any(0)
        assert 0 < changed.float().mean() <= 0.45
        assert torch.equal(view, torch.where(changed, mean, IMAGE))


def test_evaluation_resizes():
    assert eval_transform((8, 8))(IMAGE).shape == (3, 8, 8)
    assert torch.equal(eval_transform((20, 10))(IMAGE), IMAGE)
