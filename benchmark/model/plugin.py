"""Teachers that a class of `TEACHERS` defines, as backbones: `teacher.network.backbone: plugin:NAME`.

Their weights come from wherever the class takes them, and are not trained here. A student file cannot name one, so that
a file of unknown origin does not choose code to run.
"""

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError, nearest
from benchmark.registry import TEACHERS

PREFIX = "plugin:"
"""Beginning of the name of such a backbone."""
STATISTICS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
"""Mean and standard deviation with which an `Embedder` passes pixels from 0 to 255 on."""


def is_plugin(backbone: str) -> bool:
    """Whether a backbone is a class of `TEACHERS`."""
    return backbone.startswith(PREFIX)


class PluginBackbone(nn.Module):
    """An instance of a class of `TEACHERS`, with the attributes of a timm backbone that this suite uses.

    Args:
        name: Name of the class, for messages.
        model: The instance.
    """

    def __init__(self, name: str, model: Any) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.head_hidden_size: int = model.dim
        self.num_features: int = model.dim
        self.pretrained_cfg: dict[str, Any] = {}
        self.feature_info = [
            {"module": f"model.{module}", "num_chs": channels} for module, channels in getattr(model, "stages", ())
        ]
        self.cost: tuple[int, int] | None = getattr(model, "cost", None)
        """Parameters and MACs per image that the class states; None to count them."""

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return the (B, dim) embeddings of (B, 3, H, W) RGB pixels from 0 to 255, in floating point.

        Raises:
            UserError: `embed` returns another shape.
        """
        embeddings: Tensor = self.model.embed(pixels.round().to(torch.uint8))
        expected = (len(pixels), self.head_hidden_size)
        if not isinstance(embeddings, Tensor) or embeddings.shape != expected:
            actual = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
            raise UserError(f"teacher {self.name}: embed returns {actual} for {len(pixels)} images: return {expected}")
        return embeddings

    def forward_head(self, embeddings: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the embeddings as they are."""
        return embeddings

    def classifier(self) -> nn.Module | None:
        """Return the head that maps (B, dim) embeddings to logits; None if the class has none."""
        return _Head(self.model) if hasattr(self.model, "logits") else None


class _Head(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self._logits = model.logits  # a method, so that the model is not a submodule of the head, too

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self._logits(embeddings)
        return logits


def build_plugin(backbone: str, args: Mapping[str, Any]) -> PluginBackbone:
    """Create a teacher of `TEACHERS`, or return the one that was created before with the same arguments.

    Args:
        backbone: `plugin:` and the registered name.
        args: Arguments of the constructor.

    Raises:
        UserError: The name is unknown, or the teacher cannot be created.
    """
    name = backbone.removeprefix(PREFIX)
    return _build(name, TEACHERS.find(name), json.dumps(dict(args), sort_keys=True))  # type: ignore[arg-type]  # classes are hashable


@lru_cache(maxsize=2)
def _build(name: str, cls: type[Any], arguments: str) -> PluginBackbone:
    args = json.loads(arguments)
    known = inspect.signature(cls).parameters
    if unknown := sorted(args.keys() - known.keys()):
        raise UserError(f"teacher {name} has no argument {unknown[0]!r}{nearest(unknown[0], known)}")
    lacking = [key for key, each in known.items() if each.default is each.empty and key not in args]
    if lacking:
        raise UserError(f"teacher {name} needs the argument {lacking[0]}: set teacher.network.args.{lacking[0]}")
    try:
        with torch.device("cpu"):  # weights are loaded, also where the network around it has shapes only
            model = cls(**args)
    except UserError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise UserError(f"teacher {name} cannot be created with {args}: {type(error).__name__}: {error}") from error
    if not callable(getattr(model, "embed", None)) or type(getattr(model, "dim", None)) is not int:
        raise UserError(
            f"teacher {name}: {cls.__name__} must define `embed(self, images)` and the integer `dim`, the size of an "
            "embedding"
        )
    backbone = PluginBackbone(name, model).eval()
    return backbone.requires_grad_(False)
