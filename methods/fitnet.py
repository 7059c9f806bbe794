"""FitNets: the student's features against the teacher's own."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.losses import match_size
from benchmark.method import Method, Plan
from benchmark.model.embedder import Embedder, Stages, stage_channels
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast


@METHODS.register_module("fitnet")
class FitNet(Method):
    """FitNets: the student's features, through a linear map where sizes differ, approach the teacher's.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets. ICLR 2015.

    Equation: weight * mean (r(f_s) - f_t)^2 over all entries, summed over the stages; f are the features and r, the
    regressor, is learnt.

    What retrieval papers call FitNet, and the default here, takes the embedding for f and no regressor, so that the
    student can be searched in the teacher's gallery: AIR_Distiller, whose weight of 2 beside the whole task loss is the
    default (the paper of D3still trains it without a task loss). Where embeddings differ in size r is a linear map
    without bias, and the spaces stay apart. `on: stages` is the paper's hint: f are the maps that end a stage, and r a
    1x1 convolution without bias, as in the codes of RKD and LabelRelaxation (four stages); the larger of two maps is
    averaged down to the smaller's size. The paper trains on the hint first and on the task afterwards; here, as in the
    codes, both run together. The preset `published` is the hint at one middle stage, with the weight of RepDistiller,
    which is meant for the features of CIFAR networks.

    Args:
        on: What approaches the teacher's: the `embedding`, or the maps of `stages`.
        weight: Factor of the term.
        stages: Which ones, with `on: stages`.
    """

    kind: ClassVar[str] = "embeddings"
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
