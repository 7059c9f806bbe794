"""The loss of the retrieval task itself."""

from torch import Tensor
from torch.nn import functional as F

from benchmark.losses.batch_hard_triplet import batch_hard_triplet
from benchmark.model.features import Features
from benchmark.recipe import Task


class TaskLoss:
    """Identity cross-entropy with label smoothing, plus batch-hard triplet; the same for every method.

    Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.epoch = 1
        """The running epoch, counted from 1."""

    def __call__(self, features: Features, labels: Tensor) -> dict[str, Tensor]:
        """Weighted scalar terms; `labels` is (B,) int64."""
        triplet = self.task.triplet
        smoothing = self.task.label_smoothing
        terms = {"identity": F.cross_entropy(features.logits.float(), labels, label_smoothing=smoothing)}
        if triplet.weight and self.epoch >= triplet.from_epoch:
            compared = features.pooled if triplet.feature == "pooled" else features.embedding
            distance = batch_hard_triplet(compared, labels, triplet.margin, triplet.normalize)
            terms["triplet"] = triplet.weight * distance
        return terms
