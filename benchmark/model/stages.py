"""The stages of a backbone, as `Embedder.tap` counts them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder


def _ascending(stages: tuple[int, ...]) -> tuple[int, ...]:
    if any(first >= second for first, second in pairwise(stages)):
        raise ValueError("each stage once, the shallowest first")
    return stages


Stages = Annotated[tuple[Annotated[int, Field(ge=1, le=4)], ...], Field(min_length=1), AfterValidator(_ascending)]
"""The type of a method's argument that names stages: at least one of 1 to 4, each once, in ascending order."""


def stage_channels(network: Embedder, stages: Sequence[int]) -> list[int]:
    """Channels of the maps that the taps "stage1", "stage2", ... of `network` give.

    Args:
        network: Teacher or student.
        stages: Counted from 1: the last four levels that timm lists for the backbone.

    Raises:
        UserError: The backbone has no such stage.
    """
    levels: list[dict[str, int]] = list(network.backbone.feature_info)[-4:]
    for stage in stages:
        if not 1 <= stage <= len(levels):
            backbone = network.architecture["backbone"]
            raise UserError(f"{backbone} has no stage {stage}: its stages are 1 to {len(levels)}")
    return [levels[stage - 1]["num_chs"] for stage in stages]
