"""FitNets: regression of the teacher's features."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Plan, Range
from benchmark.losses import match_size
from benchmark.model.features import Stages, stage_channels
from benchmark.utils.precision import upcast


@METHODS.register_module("fitnet")
class FitNet(Method):
    """FitNets: regress the teacher's embeddings or feature maps.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets. ICLR 2015.

    Equation:

        weight * sum over the compared features of mean (r(f_s) - f_t)^2

    where f_s and f_t are the features of student and teacher, r is a learned regressor, and the mean runs over all
    entries.

    `on: embedding`, the default, is what retrieval papers call FitNet: f is the embedding, without a regressor, and the
    student is trained into the teacher's embedding space. Where embedding sizes differ, r is a linear layer without
    bias, which does not align the two spaces. `on: stages` is the paper's hint: f are the outputs of the stages and r
    is a 1x1 convolution without bias, as in the codes of RKD and LabelRelaxation (four stages). Where map sizes differ,
    the larger map is average-pooled to the smaller one's size.

    Implementation: the paper trains on the hint first and on the task afterwards; here, as in the released codes, both
    are trained together.

    Defaults: weight 2, in addition to the whole task loss, is AIR_Distiller's (the paper of D3still trains FitNet
    without a task loss). The preset `published` is the hint at one middle stage with RepDistiller's weight, which is
    meant for the features of CIFAR networks.

    Args:
        on: What is regressed: the `embedding`, or the outputs of the `stages`.
        weight: Weight of the loss term.
        stages: Stages whose outputs are compared with `on: stages`.
    """

    kind: ClassVar[str] = "embeddings"
    maps_per_image = True
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.2, 20)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {"on": "stages", "weight": 100.0, "stages": (2,)}
    }

    def __init__(
        self,
        on: Literal["embedding", "stages"] = "embedding",
        weight: Annotated[float, Field(ge=0)] = 2.0,
        stages: Stages = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        self.on = on
        self.weight = weight
        self.stages = stages
        self.aligned = on == "embedding"
        if on == "stages":
            self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]
        self.regressors = nn.ModuleList()

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        if self.on == "stages":
            widths = zip(stage_channels(student, self.stages), stage_channels(teacher, self.stages), strict=True)
            self.regressors.extend(nn.Conv2d(*pair, 1, bias=False) for pair in widths)
        elif student.dim == teacher.dim:
            self.regressors.append(nn.Identity())
        else:
            self.regressors.append(nn.Linear(student.dim, teacher.dim, bias=False))
            self.aligned = False

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        if self.on == "stages":
            pairs = [match_size(student.taps[tap], teacher.taps[tap]) for tap in self.student_taps]
        else:
            pairs = [(student.embedding, teacher.embedding)]
        terms = [
            F.mse_loss(upcast(regressor(s)), upcast(t))
            for regressor, (s, t) in zip(self.regressors, pairs, strict=True)
        ]
        return {"fitnet": self.weight * sum(terms, start=terms[0].new_zeros(()))}
