"""Options of networks that follow from the backbone and the size of the images.

Recipes of datasets are for ResNets. A user who names another backbone does not have to know which of their options it
lacks, and for which size of images it has to be built.
"""

import inspect
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.recipe.sections import Network, Recipe, Teacher

if TYPE_CHECKING:
    from benchmark.model.embedder import Embedder  # imports torch, as the functions below do where they need it

PLAIN: Mapping[str, Any] = {"stem": "imagenet", "last_stride": 2, "pool": "avg"}
"""Options of networks with the values that every backbone accepts."""
AUTO = "auto"
"""Value of `last_stride`: 1 where the backbone supports it, else 2."""
_INHERITED = ("stem", "last_stride")
"""Options that a layer with another backbone changes to plain values where that backbone does not support them."""
_SIZED = ("img_size", "dynamic_img_size")
"""Arguments of a backbone that state for which image sizes it is built."""


def fit_networks(recipe: Recipe, layers: Sequence[Mapping[str, Any]] = (), like_teacher: bool = False) -> Recipe:
    """Return a recipe with options that the backbones of its networks support.

    Options that no layer names together with, or after, the backbone are adapted to it. A backbone that is built for
    one size of images, as a ViT is, is built for the size of the recipe.

    Args:
        recipe: The composed recipe. `last_stride: auto` is resolved.
        layers: Changes of the user, in the order in which they were merged.
        like_teacher: Whether the student is the teacher's network with changes.
    """
    teachers = [layer.get("teacher", {}).get("network", {}) for layer in layers]
    students = [layer.get("student", {}) for layer in layers]
    chosen = any("backbone" in network for network in teachers)
    teacher = _fitted(recipe.teacher.network, _inherited(teachers), recipe.image_size if chosen else None)
    free = _inherited(students)
    if like_teacher:
        free |= _inherited(teachers) - {name for network in students for name in network}
    chosen = any("backbone" in network for network in (*students, *(teachers if like_teacher else ())))
    student = _fitted(recipe.student, free, recipe.image_size if chosen else None)
    named = [layer["more_teachers"] for layer in layers if "more_teachers" in layer]
    others = _fitted_others(recipe, named[-1] if named else ())
    if (teacher, student, others) == (recipe.teacher.network, recipe.student, recipe.more_teachers):
        return recipe
    first = recipe.teacher.model_copy(update={"network": teacher})
    return recipe.model_copy(update={"teacher": first, "more_teachers": others, "student": student})


def _fitted_others(recipe: Recipe, given: Sequence[Mapping[str, Any]]) -> tuple[Teacher, ...]:
    """Return the teachers after the first with options that their backbones support.

    Args:
        recipe: The composed recipe.
        given: Their sections as the user has written them; none if the recipe was saved by a run.
    """
    fitted = []
    for teacher, section in zip(recipe.more_teachers, given or [{}] * len(recipe.more_teachers), strict=True):
        network = section.get("network", {})
        image_size = recipe.image_size if "backbone" in network else None
        network = _fitted(teacher.network, _inherited([network]), image_size)
        fitted.append(teacher.model_copy(update={"network": network}))
    return tuple(fitted)


def meta_network(settings: Network) -> "Embedder":
    """Build a network on the `meta` device, or a plugin on the CPU, with a classifier of two identities.

    Raises:
        UserError: The architecture does not exist, or does not have the options of `settings`.
    """
    import torch

    from benchmark.model.plugin import is_plugin
    from benchmark.model.residual_blocks import build

    device = "cpu" if is_plugin(settings.backbone) else "meta"
    with torch.device(device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # `accepts` refuses such networks
        return build(**settings.model_dump(exclude={"weights"}), identities=2)


def accepts(settings: Network, image_size: tuple[int, int]) -> bool:
    """Whether a network embeds images of (height, width) pixels."""
    from benchmark.model import cost

    try:
        cost.count(meta_network(settings), image_size)
    except Exception:  # timm and torch raise many types
        return False
    return True


def plain_options(settings: Network, free: Collection[str]) -> dict[str, Any]:
    """Return the options among `free` that have to change for the backbone, with the values that it accepts.

    Empty if the network can be built as it is, or not even with all changes.
    """
    plain = {name: PLAIN[name] for name in free if getattr(settings, name) != PLAIN[name]}
    if not plain or _can_be_built(settings) or not _can_be_built(settings.model_copy(update=plain)):
        return {}
    for name in sorted(plain):  # keep only the changes that are needed
        rest = {other: value for other, value in plain.items() if other != name}
        if _can_be_built(settings.model_copy(update=rest)):
            plain = rest
    return plain


def sized(settings: Network, image_size: tuple[int, int]) -> Network:
    """Return a network that is built for images of (height, width) pixels, if it has to be built for one size."""
    height, width = settings.image_size or image_size
    if any(key in settings.args for key in _SIZED):
        return settings
    try:
        backbone = meta_network(settings).backbone
    except UserError:  # refused before the run begins
        return settings
    fixed = getattr(backbone, "pretrained_cfg", {}).get("fixed_input_size")
    if not fixed or "img_size" not in inspect.signature(type(backbone)).parameters:
        return settings
    built = settings.model_copy(update={"args": {**settings.args, "img_size": [height, width]}})
    return built if not accepts(settings, image_size) and accepts(built, image_size) else settings


def _inherited(networks: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the options that belong to another backbone than the one that was named last."""
    free: set[str] = set()
    for network in networks:
        free = {name for name in (_INHERITED if "backbone" in network else free) if name not in network}
    return free


def _fitted(settings: Network, free: Collection[str], image_size: tuple[int, int] | None) -> Network:
    if settings.last_stride == AUTO:
        settings, free = settings.model_copy(update={"last_stride": 1}), {*free, "last_stride"}
    if changes := plain_options(settings, free):
        settings = settings.model_copy(update=changes)
    return settings if image_size is None else sized(settings, image_size)


def _can_be_built(settings: Network) -> bool:
    try:
        meta_network(settings)
    except UserError:
        return False
    return True
