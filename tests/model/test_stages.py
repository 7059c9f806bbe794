"""Stages of a backbone: their channels, and the type of an argument that selects them."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.features import Stages, stage_channels

SMALL = {"channels": [8, 16, 24, 32]}


@pytest.mark.parametrize(
    "network",
    [
        {"backbone": "resnet26", "args": SMALL},
        {"backbone": "resnet18", "args": SMALL},
        {"backbone": "mobilenetv3_small_050"},
        {"backbone": "convnext_atto"},
        {"backbone": "efficientnet_b0"},
    ],
    ids=lambda network: network["backbone"],
)
def test_channels_equal_those_of_the_taps(network):
    with torch.device("meta"):
        embedder = Embedder(**network).eval()
    embedder.tap([f"stage{stage}" for stage in (1, 2, 3, 4)])
    taps = embedder.features(torch.empty(2, 3, 64, 64, dtype=torch.uint8, device="meta")).taps
    widths = [tap.shape[1] for tap in taps.values()]
    assert stage_channels(embedder, (1, 2, 3, 4)) == widths
    assert stage_channels(embedder, (3, 1)) == [widths[2], widths[0]]


@pytest.mark.parametrize("stage", [0, 5, -1])
def test_unknown_stage(stage):
    with pytest.raises(UserError, match=rf"resnet26 has no stage {stage}: its stages are 1 to 4"):
        stage_channels(Embedder("resnet26", args=SMALL), (2, stage))


@pytest.mark.parametrize("stages", [(4,), (1, 3), (1, 2, 3, 4)])
def test_valid_stages(stages):
    assert TypeAdapter(Stages).validate_python(stages) == stages


@pytest.mark.parametrize(
    ("stages", "message"),
    [((), "at least 1 item"), ((0, 1), "greater than or equal to 1"), ((4, 5), "less than or equal to 4")]
    + [(wrong, "each stage once, the shallowest first") for wrong in ((2, 1), (3, 3), (1, 4, 2))],
)
def test_invalid_stages(stages, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Stages).validate_python(stages)
