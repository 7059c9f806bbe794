"""Teachers that a class of `TEACHERS` defines, as backbones: `teacher.network.backbone: plugin:NAME`.

Their weights come from wherever the class takes them, and are not trained here. A student file cannot name one, so that
a file of unknown origin does not choose code to run.
"""

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from benchmark.errors import UserError, nearest
from benchmark.registry import TEACHERS

PREFIX = "plugin:"
"""Beginning of the name of such a backbone."""
STATISTICS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
"""Mean and standard deviation with which an `Embedder` passes pixels from 0 to 255 on."""
_Positive = Annotated[int, Field(gt=0)]
_STAGES: TypeAdapter[Any] = TypeAdapter(tuple[tuple[str, _Positive], ...] | None)
_COST: TypeAdapter[Any] = TypeAdapter(tuple[_Positive, _Positive] | None)
_FORMS = {
    "stages": "pairs of the name of a module and its number of channels",
    "cost": "two positive integers, the numbers of parameters and of MACs per image",
}


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
        stages = _member(model, "stages", _STAGES, name)
        self.feature_info = [{"module": f"model.{module}", "num_chs": channels} for module, channels in stages or ()]
        self.cost = _member(model, "cost", _COST, name)
        """Parameters and MACs per image that the class states; None to count them."""

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return the (B, dim) embeddings of (B, 3, H, W) RGB pixels from 0 to 255, both in floating point.

        Raises:
            UserError: `embed` returns another shape.
        """
        embeddings = self.model.embed(pixels.round().to(torch.uint8))
        # In the dtype and on the device of the student's, whatever the class computes with.
        return _checked(self.name, "embed", embeddings, len(pixels), self.head_hidden_size).to(pixels)

    def forward_head(self, embeddings: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the embeddings as they are."""
        return embeddings

    def classifier(self) -> nn.Module | None:
        """Return the head that maps (B, dim) embeddings to logits; None if the class has none."""
        return _Head(self.name, self.model) if hasattr(self.model, "logits") else None


class _Head(nn.Module):
    def __init__(self, name: str, model: Any) -> None:
        super().__init__()
        self.name = name
        self._models = (model,)  # in a tuple, so that the model is not a submodule of the head, too

    def forward(self, embeddings: Tensor) -> Tensor:
        return _checked(self.name, "logits", self._models[0].logits(embeddings), len(embeddings)).to(embeddings)


def _checked(name: str, member: str, result: Any, rows: int, columns: int | None = None) -> Tensor:
    """Check that a teacher has returned a matrix with a row for each image."""
    shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
    if not isinstance(result, Tensor) or result.dim() != 2 or shape != (rows, columns or result.shape[1]):
        expected = f"({rows}, {columns or 'identities'})"
        raise UserError(f"teacher {name}: {member} returns {shape} for {rows} images: return {expected}")
    return result


def _member(model: Any, key: str, form: TypeAdapter[Any], name: str) -> Any:
    """Return an optional attribute of a teacher, None if it lacks it."""
    try:
        return form.validate_python(getattr(model, key, None))
    except ValidationError as error:
        raise UserError(f"teacher {name}: {key}: {getattr(model, key)!r}: must be {_FORMS[key]}") from error


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


def forget_plugins() -> None:
    """Let `build_plugin` create teachers again, because those that it returned are moved to another device."""
    _build.cache_clear()


@lru_cache(maxsize=2)
def _build(name: str, cls: type[Any], arguments: str) -> PluginBackbone:
    args = json.loads(arguments)
    parameters = inspect.signature(cls).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = {each.name: each for each in parameters if each.kind not in variable}
    unknown = sorted(args.keys() - known.keys())
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters):
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
    dim = getattr(model, "dim", None)
    if not callable(getattr(model, "embed", None)) or type(dim) is not int or dim < 1:
        raise UserError(
            f"teacher {name}: {cls.__name__} must define `embed(self, images)` and the positive integer `dim`, the "
            "size of an embedding"
        )
    backbone = PluginBackbone(name, model).eval()
    return backbone.requires_grad_(False)
