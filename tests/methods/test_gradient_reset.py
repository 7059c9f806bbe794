"""The masks of CDD: the authors' values, a naive loop, narrowed blocks, state."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import get_state_dict, load_state_dict, weights_to_cpu
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmark.errors import UserError
from benchmark.methods.cdd.gradient_reset import GradientReset


def lists_by_loop(student, teacher, gallery, neighbors, ratio, distance):
    """Return the set of a block's channels that are in all lists, image by image in float64."""
    s, t, g = (x.double().numpy() for x in (student, teacher, gallery))
    if distance == "cosine":
        t, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (t, g))
    common = set(range(s.shape[1]))
    for image in range(len(s)):
        distances = -(g @ t[image]) if distance == "cosine" else ((g - t[image]) ** 2).sum(axis=1)
        for row in np.argsort(distances, kind="stable")[:neighbors]:
            products = np.abs(s[image] * g[row])
            common &= set(np.argsort(products, kind="stable")[: int(s.shape[1] * ratio)].tolist())
    return common


def draw(rows: int, widths: tuple[int, ...], generator: torch.Generator) -> list[torch.Tensor]:
    """Draw features whose channels differ in scale, so that the lists of different images have common channels."""
    return [torch.randn(rows, w, generator=generator) * torch.linspace(0.05, 2, w) ** 2 for w in widths]


def test_golden(golden):
    values = golden("cdd_gradient_reset")
    arrays = {k: torch.from_numpy(values.arrays[k]) for k in values.arrays.files if k not in ("cases", "meta")}
    wrong = []
    for case in values.cases:
        meta, hp = values.meta[case], values.meta[case]["hp"]
        normalize = F.normalize if hp["dist"] == "cosine" else torch.clone
        blocks = range(len(hp["widths"]))
        reset = GradientReset(hp["widths"], hp["size"], neighbors=hp["k"], ratio=hp["ratio"], distance=hp["dist"])
        for i in blocks:
            reset.get_buffer(f"queue{i}").copy_(normalize(arrays[f"in/{meta['queue']}/queue{i}"]))
        reset.set_extra_state(
            torch.tensor([hp["ptr_start"], hp["size"] if hp["full_start"] else hp["ptr_start"]], dtype=torch.int64)
        )
        for call in range(5):
            student, teacher = (
                [arrays[f"in/{meta['inputs']}/{side}{i}_call{call}"] for i in blocks] for side in ("student", "teacher")
            )
            masks = torch.cat(reset(student, teacher))
            if not torch.equal(masks, arrays[f"{case}/masks"][call].float()):
                wrong.append((case, call))
            assert reset.pointer == meta["ptr_after"][call]
            assert (reset.filled == hp["size"]) == meta["full_after"][call]
        if f"{case}/queue_after" in arrays:
            expected = arrays[f"{case}/queue_after"].split(hp["widths"], dim=1)
            for i in blocks:
                assert torch.allclose(reset.get_buffer(f"queue{i}"), normalize(expected[i]), atol=1e-7)
    assert len(values.cases) == 184
    assert wrong == []


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("neighbors", [1, 3])
def test_equals_a_loop(distance, neighbors):
    generator = torch.Generator().manual_seed(neighbors)
    widths, batch, size, ratio = (7, 20), 5, 13, 0.6  # the queue is not a multiple of the batch
    reset = GradientReset(widths, size, neighbors=neighbors, ratio=ratio, recompute=True, distance=distance)
    seen = [torch.empty(0, w) for w in widths]
    masked = 0
    for _ in range(6):
        student, teacher = draw(batch, widths, generator), draw(batch, widths, generator)
        masks = reset(student, teacher)
        for i, mask in enumerate(masks):
            seen[i] = torch.cat([seen[i], teacher[i]])[-size:]
            expected = lists_by_loop(student[i], teacher[i], seen[i], neighbors, ratio, distance)
            assert set((mask == 0).nonzero().flatten().tolist()) == expected
            masked += len(expected)
    assert masked > 0


def test_masks_accumulate_unless_recomputed():
    generator = torch.Generator().manual_seed(0)
    batches = [(draw(4, (16,), generator), draw(4, (16,), generator)) for _ in range(4)]
    accumulated, recomputed = GradientReset([16], 8), GradientReset([16], 8, recompute=True)
    product = torch.ones(16)
    for student, teacher in batches:
        product = product * recomputed(student, teacher)[0]
        assert torch.equal(accumulated(student, teacher)[0], product)
    assert product.sum() < recomputed.masks[0].sum()


@pytest.mark.parametrize("recompute", [False, True])
def test_narrowed_block_has_the_masks_of_a_block_with_zero_rows(recompute):
    generator = torch.Generator().manual_seed(1)
    widths, batch = (32, 12), 6
    whole = GradientReset(widths, 18, ratio=0.7, recompute=recompute)
    narrow = GradientReset(widths, 18, ratio=0.7, recompute=recompute)
    kept = [torch.arange(w) for w in widths]
    for step in range(8):
        if step in (2, 4, 6):  # remove five of the remaining channels of the first block
            index = torch.randperm(len(kept[0]), generator=generator)[:-5].sort().values
            kept[0] = kept[0][index]
            narrow.keep(0, index)
        student, teacher = draw(batch, widths, generator), draw(batch, widths, generator)
        removed = torch.ones(widths[0], dtype=torch.bool)
        removed[kept[0]] = False
        student[0][:, removed] = 0
        expected = [mask[index] for mask, index in zip(whole(student, teacher), kept, strict=True)]
        got = narrow([s[:, index] for s, index in zip(student, kept, strict=True)], teacher)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert 0 < narrow.masks[0].sum() < len(kept[0])
    assert torch.equal(narrow.kept0, kept[0])


def test_ratio_of_initial_and_current_width():
    generator = torch.Generator().manual_seed(2)
    student, teacher = draw(3, (20,), generator), draw(3, (20,), generator)
    index = torch.arange(9)
    initial = GradientReset([20], 6, neighbors=1)
    current = GradientReset([20], 6, neighbors=1, ratio_of="current")
    for reset in (initial, current):
        reset.keep(0, index)
    # 11 of 20 channels are removed, more than the 10 of a list: no remaining channel is listed.
    assert initial([student[0][:, index]], teacher)[0].all()
    reference = GradientReset([9], 6, neighbors=1)
    assert torch.equal(
        current([student[0][:, index]], teacher)[0], reference([student[0][:, index]], [teacher[0][:, index]])[0]
    )
    assert not current.masks[0].all()


@pytest.mark.parametrize("steps", [0, 2, 5])
def test_state_and_queue_are_restored(steps):
    """The queue is partly filled, or full and begun again. It is not part of the state, except of earlier versions."""
    generator = torch.Generator().manual_seed(3)
    batches = [(draw(4, (8, 16), generator), draw(4, (8, 16), generator)) for _ in range(steps + 4)]
    straight = GradientReset([8, 16], 13, neighbors=3)
    for student, teacher in batches[:steps]:
        straight(student, teacher)
    by_torch, by_mmengine = GradientReset([8, 16], 13, neighbors=3), GradientReset([8, 16], 13, neighbors=3)
    assert not any("queue" in key for key in straight.state_dict())
    by_torch.load_state_dict(straight.state_dict() | {"queue0": torch.zeros(13, 8)})
    load_state_dict(by_mmengine, weights_to_cpu(get_state_dict(straight)), strict=True)
    for resumed in (by_torch, by_mmengine):
        for ago in range(resumed.remembered(4), 0, -1):
            resumed.remember(batches[steps - ago][1], ago)
        assert all(torch.equal(resumed.get_buffer(name), straight.get_buffer(name)) for name in ("queue0", "queue1"))
    for student, teacher in batches[steps:]:
        expected = straight(student, teacher)
        for resumed in (by_torch, by_mmengine):
            assert all(torch.equal(a, b) for a, b in zip(resumed(student, teacher), expected, strict=True))
            assert (resumed.pointer, resumed.filled) == (straight.pointer, straight.filled)


def test_state_of_a_narrowed_block():
    generator = torch.Generator().manual_seed(4)
    index = torch.tensor([0, 2, 3, 7])
    first, second = GradientReset([8], 8), GradientReset([8], 8)
    first.keep(0, index)
    first([draw(4, (8,), generator)[0][:, index]], draw(4, (8,), generator))
    second.keep(0, torch.arange(4))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.kept0, index)


def test_does_not_wait_for_the_device():
    # Fake tensors have no values: reading a value on the host raises, and so does a shape that depends on one.
    with FakeTensorMode():
        reset = GradientReset([8, 16], 12)
        reset.keep(1, torch.arange(10))
        for _ in range(5):
            masks = reset([torch.empty(4, 8), torch.empty(4, 10)], [torch.empty(4, 8), torch.empty(4, 16)])
    assert [mask.shape for mask in masks] == [(8,), (10,)]


def test_is_exact_under_autocast_and_reduced_precision():
    generator = torch.Generator().manual_seed(5)
    plain, within = GradientReset([64], 60, recompute=True), GradientReset([64], 60, recompute=True)
    matmul = torch.backends.mkldnn.matmul
    precision = matmul.fp32_precision
    for _ in range(6):
        # Teacher features are close together, as after training. A bfloat16 product cannot distinguish them.
        student, teacher = draw(12, (64,), generator), [5 + 0.1 * x for x in draw(12, (64,), generator)]
        expected = plain(student, teacher)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            matmul.fp32_precision = "bf16"
            masks = within(student, teacher)
            assert matmul.fp32_precision == "bf16"
            matmul.fp32_precision = precision
        assert torch.equal(masks[0], expected[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype):
    generator = torch.Generator().manual_seed(6)
    reset = GradientReset([16], 8)
    mask = reset(*([x.to(dtype) for x in draw(4, (16,), generator)] for _ in range(2)))[0]
    assert mask.dtype == torch.float32
    assert reset.queue0.isfinite().all()


def test_batch_larger_than_the_queue():
    with pytest.raises(UserError, match="queue of 8 features is smaller than the batch of 9"):
        GradientReset([4], 8)([torch.randn(9, 4)], [torch.randn(9, 4)])
