"""Learning metrics from teachers."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import l2_normalize, pairwise_distance
from benchmark.utils.precision import upcast


@METHODS.register_module("metrics_from_teachers")
class MetricsFromTeachers(Method):
    """Metrics from teachers: match the distances within the batch, or the embeddings themselves.

    Yu, Yazici, Liu, van de Weijer, Cheng, Ramisa: Learning Metrics from Teachers, Compact Networks for Image Embedding.
    CVPR 2019.

    Equation:

        relative: weight * ||D_s - D_t||_F,  D[i, j] = max(|f_i - f_j|, 1e-6)
        absolute: weight * mean_b |f_s[b] - f_t[b] + 1e-6|

    where f are the embeddings of student (s) and teacher (t). `mode: relative`, the default, allows different embedding
    sizes. It is one norm over the whole batch, neither squared nor divided, so it grows with the batch size.
    `mode: absolute` needs embeddings of equal size and trains the student into the teacher's embedding space. As in the
    authors' code, 1e-6 is added to every component, so the distance of a student equal to its teacher is
    1e-6 * sqrt(d) in d dimensions.

    Defaults: in addition to the triplet loss, the authors weight relative and absolute with 0.3 and 1.0 for
    CUB-200-2011, 0.1 and 1.5 for Cars196, and 1.0 and 2.0 for Stanford Online Products. The presets `published`
    (relative) and `absolute` have the weights for CUB. On batch-normalized embeddings `published` outweighs the task
    loss and `absolute` does not. The default, relative, therefore L2-normalizes first and has the largest of the
    relative weights, 1.0.

    Args:
        mode: Whether distances (`relative`) or embeddings (`absolute`) are compared.
        weight: Weight of the loss term.
        normalize: Whether to L2-normalize the embeddings first.
    """

    kind: ClassVar[str] = "sample relations"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"mode": "relative", "weight": 0.3, "normalize": False},
        "absolute": {"mode": "absolute", "weight": 1.0, "normalize": False},
    }

    def __init__(
        self,
        mode: Literal["relative", "absolute"] = "relative",
        weight: Annotated[float, Field(ge=0)] = 1.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.mode, self.weight, self.normalize = mode, weight, normalize
        self.aligned = mode == "absolute"
        self.needs = Needs(equal_embeddings=self.aligned)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        prepare = l2_normalize if self.normalize else upcast
        s, t = prepare(student.embedding), prepare(teacher.embedding)
        if self.mode == "absolute":
            distance = F.pairwise_distance(s, t, eps=1e-6).mean()
        else:
            distance = torch.linalg.vector_norm(pairwise_distance(s) - pairwise_distance(t))
        return {f"metrics_from_teachers_{self.mode}": self.weight * distance}
