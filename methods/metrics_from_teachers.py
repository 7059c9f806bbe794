"""Learning metrics from teachers."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import l2_normalize, pairwise_distance
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast


@METHODS.register_module("metrics_from_teachers")
class MetricsFromTeachers(Method):
    """Metrics from teachers: distances in the batch, or the embeddings, approach the teacher's.

    Yu, Yazici, Liu, van de Weijer, Cheng, Ramisa: Learning Metrics from Teachers, Compact Networks for Image Embedding.
    CVPR 2019.

    Equation, `mode` relative: weight * ||D_s - D_t||_F with D_ij = max(|f_i - f_j|, 1e-6), f the embeddings, whose
    sizes may differ. It is one norm over the whole batch, neither squared nor divided, and so grows with the batch.
    `mode` absolute: weight * mean_b |f_s,b - f_t,b + 1e-6|, which needs embeddings of one size and pulls the student's
    onto the teacher's; the constant, in every component, is that of the authors' code, and costs a student equal to its
    teacher 1e-6 * sqrt(d) in d dimensions.

    Beside the triplet loss the authors weight relative and absolute with 0.3 and 1.0 for CUB-200-2011, 0.1 and 1.5 for
    Cars196, 1.0 and 2.0 for Stanford Online Products. The presets `published` and `absolute` are those for CUB. On
    batch-normalised embeddings `published` drowns the task loss, as `absolute` does not; the default, relative,
    therefore L2-normalises first and takes the largest of the relative weights, 1.0.

    Args:
        mode: See above.
        weight: Factor of the term.
        normalize: Whether the embeddings are L2-normalised first.
    """

    kind: ClassVar[str] = "sample relations"
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
        prepared = l2_normalize if self.normalize else upcast
        s, t = prepared(student.embedding), prepared(teacher.embedding)
        if self.mode == "absolute":
            apart = F.pairwise_distance(s, t, eps=1e-6).mean()
        else:
            apart = torch.linalg.vector_norm(pairwise_distance(s) - pairwise_distance(t))
        return {f"metrics_from_teachers_{self.mode}": self.weight * apart}
