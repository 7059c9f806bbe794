"""The content of a student file, and of the configuration in a student's folder."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from torch import Tensor

from benchmark.data.decode import WHITE

Width = Annotated[int, Field(strict=True, ge=1, le=2**16)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=2**13)]
Small = Annotated[int, Field(strict=True, ge=0, le=64)]
Statistic = Annotated[float, Field(strict=True, ge=0, le=1)]
Deviation = Annotated[float, Field(strict=True, ge=1e-3, le=1)]
Channel = Annotated[int, Field(strict=True, ge=0, le=255)]
Name = Annotated[str, Field(max_length=256)]


class _Part(BaseModel):
    """A part of a student file: only the keys that are written, with strict types and bounds."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class Architecture(_Part):
    backbone: Name
    args: dict[Name, Any]
    stem: Literal["imagenet", "no_pool", "stride1"]
    last_stride: Literal[1, 2]
    pool: Literal["avg", "gem"]
    neck: Literal["linear", "bn", "none"]
    dim: Width
    image_size: tuple[Pixels, Pixels] | None = None
    mean: tuple[Statistic, Statistic, Statistic] | None = None
    std: tuple[Deviation, Deviation, Deviation] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


class _Convolution(_Part):
    type: Literal["Conv2d", "Conv2dSame"]
    in_channels: Width
    out_channels: Width
    kernel_size: tuple[Small, Small]
    stride: tuple[Small, Small]
    padding: tuple[Small, Small] | Literal["same", "valid"]
    dilation: tuple[Small, Small]
    groups: Width
    bias: StrictBool
    activation: Literal[True] | None = None
    """True for a convolution that replaces a batch norm with an activation, and is followed by that activation."""


class _Linear(_Part):
    type: Literal["Linear"]
    in_features: Width
    out_features: Width
    bias: StrictBool


class _Norm(_Part):
    type: Literal["BatchNorm1d", "BatchNorm2d"]
    num_features: Width


class _Blur(_Part):
    type: Literal["BlurPool2d"]
    channels: Width | None
    filt_size: Annotated[int, Field(strict=True, ge=1, le=7)]
    stride: Small
    pad_mode: Literal["reflect", "constant", "replicate", "circular"]


class _Plain(_Part):
    type: Literal["Identity", "activation"]


_Edit = Annotated[_Convolution | _Linear | _Norm | _Blur | _Plain, Field(discriminator="type")]


class Description(_Part):
    """A deployed network without its weights, and its input.

    `background` is the color that shows through transparent pixels; files lack it if it is white.
    """

    format: Literal[1]
    architecture: Architecture
    image_size: tuple[Pixels, Pixels]
    background: tuple[Channel, Channel, Channel] = WHITE
    edits: dict[Name, _Edit]


class StudentFile(Description):
    """The content of a student file, `student.pt`."""

    weights: dict[Name, Tensor]


class StudentConfig(Description):
    """The content of `config.json` in the folder of a student; `weights` is the hash of the tensors next to it."""

    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
