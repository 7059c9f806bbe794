"""The loss of the retrieval task."""

import inspect
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import UserError, nearest
from benchmark.losses import batch_hard_triplet
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.recipe import Margin, MetricLoss, Recipe, Task
from benchmark.utils.precision import upcast

_PACKAGE = "pytorch_metric_learning"


class TaskLoss(nn.Module):
    """Identity cross-entropy with label smoothing plus batch-hard triplet loss; the same for every method.

    Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019.

    A recipe may add a margin to the cross-entropy, and losses of pytorch-metric-learning, whose parameters, such as
    proxies, are then trained with the student.

    Args:
        task: The section of the recipe.
        identities: Number of identities.
        pooled: Size of the pooled feature.
        embedding: Size of the embedding.
        scale: Factor of the cosines in the logits of a cosine head.

    Raises:
        UserError: A loss or a miner does not exist or does not accept its arguments.
    """

    def __init__(
        self, task: Task, *, identities: int = 0, pooled: int = 0, embedding: int = 0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.task = task
        self.scale = scale
        self.epoch = 1
        """The current epoch, counted from 1."""
        sizes = {"pooled": pooled, "embedding": embedding}
        self.losses = nn.ModuleList(_Mined(loss, identities, sizes[loss.feature]) for loss in task.losses)

    def forward(self, features: Features, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms, each a scalar, by name.

        Args:
            features: Outputs of the student.
            labels: (B,) int64.
        """
        task, terms = self.task, {}
        if task.identity:
            logits = upcast(features.logits)
            if task.margin is not None:
                logits = self.scale * with_margin(logits / self.scale, labels, task.margin)
            terms["identity"] = task.identity * F.cross_entropy(logits, labels, label_smoothing=task.label_smoothing)
        triplet = task.triplet
        if triplet.weight and self.epoch >= triplet.from_epoch:
            compared = features.pooled if triplet.feature == "pooled" else features.embedding
            distance = batch_hard_triplet(compared, labels, triplet.margin, triplet.normalize)
            terms["triplet"] = triplet.weight * distance
        for number, (settings, loss) in enumerate(zip(task.losses, self.losses, strict=True), start=1):
            compared = features.pooled if settings.feature == "pooled" else features.embedding
            name = settings.type if settings.type not in terms else f"{settings.type}_{number}"
            terms[name] = settings.weight * loss(upcast(compared), labels)
        return terms


def task_loss(recipe: Recipe, student: Embedder, identities: int) -> TaskLoss:
    """Build the loss of the retrieval task.

    Raises:
        UserError: The recipe has a loss that does not exist or does not accept its arguments.
    """
    return TaskLoss(
        recipe.train.task,
        identities=identities,
        pooled=student.backbone.num_features,
        embedding=student.dim,
        scale=recipe.student.scale,
    )


def with_margin(cosines: Tensor, labels: Tensor, margin: Margin) -> Tensor:
    """Make the cosines of the images' own identities smaller, so that the loss asks for larger ones.

    With the cosine c = cos(t) of an image and its identity, and a margin m:

    - ArcFace (Deng et al., CVPR 2019): cos(t + m), where t + m is at most pi.
    - CosFace (Wang et al., CVPR 2018): c - m.
    - Circle loss with class labels (Sun et al., CVPR 2020): max(1 + m - c, 0) * (c - 1 + m), and for all other
      identities max(c + m, 0) * (c - m). The factors have no gradient.

    Args:
        cosines: (B, identities).
        labels: (B,) int64.
        margin: The kind and the size m of the margin.

    Returns:
        (B, identities).
    """
    own = F.one_hot(labels, cosines.shape[1]).bool()
    m = margin.margin
    if margin.type == "cosface":
        return torch.where(own, cosines - m, cosines)
    if margin.type == "arcface":
        # The derivative of the arc cosine is infinite at 1 and -1.
        angles = cosines.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        return torch.where(own, (angles + m).clamp(max=torch.pi).cos(), cosines)
    fixed = cosines.detach()
    return torch.where(own, (1 + m - fixed).relu() * (cosines - 1 + m), (fixed + m).relu() * (cosines - m))


class _Mined(nn.Module):
    """A loss of pytorch-metric-learning, of all pairs or triplets or of those that a miner selects.

    Args:
        settings: The loss, its miner and the arguments of both.
        identities: Number of identities, which losses with a proxy for each need.
        size: Size of the embeddings that it compares.
    """

    def __init__(self, settings: MetricLoss, identities: int, size: int) -> None:
        super().__init__()
        if find_spec(_PACKAGE) is None:
            raise UserError(
                f"task.losses: {settings.type} needs pytorch-metric-learning: "
                "pip install 'retrieval-distill-benchmark[metric-learning]'"
            )
        known = {"num_classes": identities, "embedding_size": size}
        self.loss = _build("losses", settings.type, settings.model_extra or {}, known)
        miner = settings.miner
        self.miner = None if miner is None else _build("miners", miner.type, miner.model_extra or {}, {})

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        selected = None if self.miner is None else self.miner(embeddings, labels)
        loss: Tensor = self.loss(embeddings, labels, selected)
        return loss


def _build(kind: str, name: str, arguments: dict[str, Any], known: dict[str, int]) -> nn.Module:
    """Create a loss or a miner by name; `known` are arguments that it gets if it has them."""
    module: ModuleType = import_module(f"{_PACKAGE}.{kind}")
    # Wrappers of other losses are left out, because their arguments are objects.
    base = module.BaseMetricLossFunction if kind == "losses" else module.BaseMiner
    names: dict[str, Any] = {
        key: cls for key, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, base) and cls != base
    }
    if name not in names:
        raise UserError(f"task.losses: pytorch_metric_learning.{kind} has no {name!r}{nearest(name, names)}")
    accepted = _parameters(names[name])
    if unknown := sorted(arguments.keys() - accepted):
        raise UserError(
            f"task.losses: {name} has no argument {unknown[0]!r}{nearest(unknown[0], accepted)} It has "
            f"{', '.join(sorted(accepted - known.keys()))}."
        )
    try:
        built: nn.Module = names[name](**arguments, **{key: known[key] for key in known.keys() & accepted})
    except Exception as error:  # assertions and others
        raise UserError(f"task.losses: {name} cannot be created with {arguments}: {error}") from error
    return built


def _parameters(cls: type) -> set[str]:
    """Return the names of the arguments of a class and of its bases, to which it passes further ones."""
    found: set[str] = set()
    for part in cls.__mro__:
        if part is nn.Module:
            break
        if "__init__" in vars(part):
            found |= set(inspect.signature(part).parameters) - {"kwargs", "args"}
    return found
