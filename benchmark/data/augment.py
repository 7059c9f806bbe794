"""Augmentation of training images."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.decode import IMAGENET_MEAN_COLOR
from benchmark.errors import UserError, nearest


def train_transform(
    size: tuple[int, int],
    pad: int = 0,
    flip: float = 0.0,
    erase: float = 0.0,
    pad_mode: Literal["constant", "edge", "reflect"] = "constant",
    transforms: Sequence[Mapping[str, Any]] = (),
) -> nn.Module:
    """Return the augmentation of a (3, H, W) uint8 image: random crop, horizontal flip, further transforms and erasing.

    Args:
        size: (height, width) of the images of a batch in pixels.
        pad: Pixels to add on every side before a random crop back to `size`.
        flip: Probability of a horizontal flip.
        erase: Probability of erasing a random rectangle of 2 to 40 % of the area (Zhong et al., AAAI 2020).
        pad_mode: What padding adds: black, the color of the edge, or the reflected image.
        transforms: Transforms of `torchvision.transforms.v2`, each with its name as `type` and its arguments. The size
            of the image before them may differ from `size`, if they change it to `size` and `pad` is 0.

    Raises:
        UserError: A transform does not exist or does not accept its arguments.
    """
    from torchvision.transforms import v2

    steps: list[nn.Module] = []
    if pad:
        steps.append(_RandomCrop(size, pad, pad_mode))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    steps += map(_named_transform, transforms)
    if erase:
        fill = list(IMAGENET_MEAN_COLOR)
        steps.append(v2.RandomErasing(erase, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=fill))
    return v2.Compose(steps) if steps else nn.Identity()


class _RandomCrop(nn.Module):
    """Crop padded images as `torchvision.transforms.v2.RandomCrop` does, with the same random numbers, but faster.

    Torchvision's takes about 0.1 ms per image, which is a large part of a training step on small images.
    """

    def __init__(self, size: tuple[int, int], pad: int, mode: Literal["constant", "edge", "reflect"]) -> None:
        super().__init__()
        self.size, self.pad = size, pad
        self.sources: list[np.ndarray] | None = None
        """For every row and every column of the padded image, the one that it repeats; None if the padding is black."""
        if mode != "constant":
            self.sources = [np.pad(np.arange(length), pad, mode) for length in size]

    def forward(self, image: Tensor) -> Tensor:
        height, width = self.size
        top, left = torch.randint(0, 2 * self.pad + 1, (2,)).tolist()
        if self.sources is None:
            return F.pad(image, (self.pad,) * 4)[:, top : top + height, left : left + width]
        rows, columns = self.sources
        # NumPy takes a fraction of the time of torch's `index_select`.
        return torch.from_numpy(image.numpy().take(rows[top : top + height], 1).take(columns[left : left + width], 2))


def _named_transform(spec: Mapping[str, Any]) -> nn.Module:
    """Build a transform of torchvision from its name and arguments, in which further transforms may be nested."""
    from torchvision.transforms import v2

    name = spec["type"]
    known: dict[str, Any] = {
        key: cls
        for key, cls in vars(v2).items()
        if inspect.isclass(cls) and issubclass(cls, v2.Transform) and cls is not v2.Transform
    }
    if name not in known:
        raise UserError(f"augment.transforms: torchvision.transforms.v2 has no {name!r}{nearest(str(name), known)}")
    try:
        arguments = {key: _argument(key, value) for key, value in spec.items() if key != "type"}
        transform: nn.Module = known[name](**arguments)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"augment.transforms: {name}: {error}; it has {inspect.signature(known[name])}") from error
    return transform


def _argument(name: str, value: Any) -> Any:
    """Return the argument of a transform for a plain value: names of interpolations and policies, nested transforms."""
    from torchvision.transforms import v2

    if isinstance(value, Mapping) and "type" in value:
        return _named_transform(value)
    if isinstance(value, list | tuple):
        return [_argument(name, each) for each in value]
    enumeration = {"interpolation": v2.InterpolationMode, "policy": v2.AutoAugmentPolicy}.get(name)
    return enumeration(value) if enumeration and isinstance(value, str) else value
