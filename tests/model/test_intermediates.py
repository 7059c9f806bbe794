"""Taps of token networks: maps that equal the outputs of blocks, and networks to which they do not apply."""

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.features import stage_channels
from benchmark.model.intermediates import meta_copy, needs_intermediates, stage_levels
from benchmark.model.layers import FlipTTA
from benchmark.model.serialize import load_network, save_student

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIZE = {"img_size": [32, 48]}
PLAIN = SIZE | {"patch_size": 8, "depth": 6, "embed_dim": 24, "num_heads": 2}
VIT = {"backbone": "vit_tiny_patch16_224", "args": PLAIN}
REGISTERS = {"backbone": "vit_small_patch14_reg4_dinov2", "args": PLAIN}
DISTILLED = {"backbone": "deit_tiny_distilled_patch16_224", "args": PLAIN}
SIGLIP = {"backbone": "vit_base_patch16_siglip_224", "args": PLAIN}
SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "args": SIZE | {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
}
RESNET = {"backbone": "resnet18", "args": {"channels": [8, 8, 16, 16]}}


def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network(settings: dict, taps: list[str] = STAGES) -> Embedder:
    torch.manual_seed(0)
    embedder = Embedder(**settings, dim=6, identities=5).eval()
    embedder.tap(taps)
    return embedder


def record(embedder: Embedder, paths: list[str]) -> dict[str, list[Tensor]]:
    """Return the outputs of modules in all later forward passes."""
    outputs: dict[str, list[Tensor]] = {path: [] for path in paths}
    for path, kept in outputs.items():
        embedder.backbone.get_submodule(path).register_forward_hook(
            lambda module, inputs, output, kept=kept: kept.append(output.detach().clone())
        )
    return outputs


def as_map(tokens: Tensor, prefix: int) -> Tensor:
    """Arrange the tokens of 32 x 48 pixels, in patches of 8 x 8, position by position."""
    maps = torch.empty(len(tokens), tokens.shape[2], 4, 6)
    for row in range(4):
        for column in range(6):
            maps[:, :, row, column] = tokens[:, prefix + 6 * row + column]
    return maps


class TestPlain:
    @pytest.mark.parametrize(
        ("settings", "prefix"),
        [(VIT, 1), (DISTILLED, 2), (REGISTERS, 5), (SIGLIP, 0)],
        ids=["vit", "deit", "registers", "siglip"],
    )
    def test_equal_the_patch_tokens_of_equally_spaced_blocks(self, settings, prefix):
        embedder = network(settings)
        blocks = record(embedder, [f"blocks.{i}" for i in (0, 2, 3, 5)])
        taps = embedder.features(images()).taps
        assert list(taps) == STAGES
        for maps, (tokens,) in zip(taps.values(), blocks.values(), strict=True):
            assert torch.equal(maps, as_map(tokens, prefix))
        assert stage_channels(embedder, (1, 2, 3, 4)) == [maps.shape[1] for maps in taps.values()]

    def test_a_module_is_read_as_a_sequence(self):
        taps = network(VIT, ["blocks.3", "stage3"]).features(images()).taps
        assert taps["blocks.3"].shape == (2, 1 + 4 * 6, 24)
        assert torch.equal(as_map(taps["blocks.3"], 1), taps["stage3"])

    def test_of_fewer_blocks_than_stages(self):
        settings = {**VIT, "args": PLAIN | {"depth": 2}}
        assert [*network(settings, STAGES[:2]).features(images()).taps] == STAGES[:2]
        with pytest.raises(UserError, match="has no stage or module 'stage3'; its stages are stage1, stage2: choose"):
            network(settings)

    def test_of_another_image_size(self):
        embedder = network({**VIT, "args": PLAIN | {"dynamic_img_size": True}})
        taps = embedder.features(torch.zeros(1, 3, 64, 16, dtype=torch.uint8)).taps
        assert {maps.shape for maps in taps.values()} == {(1, 24, 8, 2)}


def test_hierarchical_equal_the_outputs_of_stages():
    embedder = network(SWIN)
    stages = record(embedder, [f"layers.{i}" for i in range(4)])
    taps = embedder.features(images()).taps
    assert [tuple(maps.shape[1:]) for maps in taps.values()] == [(8, 8, 12), (16, 4, 6), (32, 2, 3), (64, 1, 2)]
    for maps, (output,) in zip(taps.values(), stages.values(), strict=True):
        assert torch.equal(maps, output.permute(0, 3, 1, 2))


@pytest.mark.parametrize("settings", [VIT, SWIN], ids=["vit", "swin"])
class TestForward:
    def test_runs_the_network_once_with_the_same_outputs(self, settings):
        embedder, plain = network(settings), network(settings, [])
        runs = record(embedder, ["patch_embed"])["patch_embed"]
        outputs, expected = embedder.features(images()), plain.features(images())
        assert len(runs) == 1
        for name in ("pooled", "embedding", "logits"):
            assert torch.equal(getattr(outputs, name), getattr(expected, name))
        assert torch.equal(embedder(images()), outputs.embedding)

    def test_gradients(self, settings):
        embedder, checkpointed = (network(settings).train() for _ in range(2))
        checkpointed.backbone.set_grad_checkpointing()
        for each in (embedder, checkpointed):
            each.features(images()).taps["stage2"].square().sum().backward()
        gradients = [[parameter.grad for parameter in each.parameters()] for each in (embedder, checkpointed)]
        assert embedder.backbone.patch_embed.proj.weight.grad.any()
        assert all((a is None) == (b is None) for a, b in zip(*gradients, strict=True))
        for first, second in zip(*gradients, strict=True):
            torch.testing.assert_close(first, second)

    def test_bfloat16(self, settings):
        embedder = network(settings)
        with torch.autocast("cpu", torch.bfloat16):
            taps = embedder.features(images()).upcast().taps
        for name, maps in network(settings).features(images()).taps.items():
            assert taps[name].dtype == torch.float32
            torch.testing.assert_close(taps[name], maps, rtol=0.1, atol=0.1)

    def test_deep_copy_and_deployed_student(self, settings, tmp_path):
        embedder = network(settings)
        twin = copy.deepcopy(embedder)
        assert torch.equal(twin.features(images()).taps["stage4"], embedder.features(images()).taps["stage4"])
        twin.head = None
        save_student(twin, tmp_path / "student.pt", (32, 48))
        loaded = load_network(tmp_path / "student.pt")
        with torch.no_grad():
            assert torch.equal(FlipTTA(loaded)(images()), FlipTTA(embedder)(images()))
        loaded.tap(["stage4"])
        assert torch.equal(loaded.features(images()).taps["stage4"], embedder.features(images()).taps["stage4"])

    def test_pre_is_the_output(self, settings):
        taps = network(settings, ["stage2:pre", "stage2"]).features(images()).taps
        assert taps["stage2:pre"] is taps["stage2"]

    @pytest.mark.slow
    def test_torch_compile(self, settings):
        embedder = network(settings)
        compiled = torch.compile(embedder.features, backend="eager")(images())
        expected = network(settings).features(images())
        torch.testing.assert_close(compiled.logits, expected.logits)
        for name, maps in expected.taps.items():
            torch.testing.assert_close(compiled.taps[name], maps)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("resnet18", False),
        ("mobilenetv3_small_050", False),
        ("convnext_atto", False),
        ("pvt_v2_b0", False),
        ("convmixer_768_32", False),
        ("vit_tiny_patch16_224", True),
        ("swin_tiny_patch4_window7_224", True),
        ("hrnet_w18_small", True),
    ],
)
def test_hooks_remain_where_modules_return_maps(name, needed):
    with torch.device("meta"):
        assert needs_intermediates(Embedder(name).backbone, {}) == needed


@pytest.mark.parametrize(
    ("reductions", "levels"),
    [
        ([16] * 12, [2, 5, 8, 11]),
        ([16] * 6, [0, 2, 3, 5]),
        ([16] * 3, [0, 1, 2]),
        ([2, 4, 8, 16, 32], [1, 2, 3, 4]),
        ([8, 16, 16, 16], [0, 1, 2, 3]),
    ],
)
def test_stage_levels(reductions, levels):
    backbone = nn.Module()
    backbone.feature_info = [{"reduction": reduction} for reduction in reductions]
    assert stage_levels(backbone) == levels


def test_meta_copy_has_shapes_without_values():
    original = network(RESNET).backbone
    original.cache = {"bias": 2 * torch.ones(2, requires_grad=True)}  # as LeViT keeps in evaluation
    copied = meta_copy(original)
    assert copied.cache["bias"].is_meta
    tensors = [*copied.parameters(), *copied.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    assert [tensor.shape for tensor in tensors] == [t.shape for t in (*original.parameters(), *original.buffers())]
    assert not any(tensor.is_meta for tensor in original.parameters())


@pytest.mark.parametrize(
    ("settings", "taps", "message"),
    [
        (
            {**VIT, "args": PLAIN | {"patch_drop_rate": 0.5}},
            ["stage1"],
            r"args.patch_drop_rate = 0.5 leaves out patches in training, so that its tokens do not form feature maps",
        ),
        ({"backbone": "hrnet_w18_small"}, ["stage1:pre"], "timm returns stages after their last activation"),
        (SWIN, ["stage5"], "has no stage or module 'stage5'; its stages are stage1, stage2, stage3, stage4: choose"),
        (SWIN, ["stage1:post"], "has no stage or module 'stage1:post'; did you mean 'stage1"),
    ],
)
def test_refused(settings, taps, message):
    with pytest.raises(UserError, match=message):
        network(settings, taps)
