"""Time the gradient-reset masks of CDD against a naive loop, and against the matrix products alone.

    python tools/gradient_reset_speed.py            ResNet-101: 33 blocks, batch 96, queue 24,000 (about 2 GB)
    python tools/gradient_reset_speed.py --small    8 blocks, queue 2,400: seconds

The three are timed alternately in one process. Ratios are those of the fastest rounds, because other work on the
machine can only slow a round down. On a busy machine, `--threads 1` avoids threads that wait for each other. The loop
follows the definition literally in float64: one sort of the gallery per image, and one sort of the channels per image
and neighbor. Both have to give the same masks.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.methods.cdd.gradient_reset import GradientReset

NEIGHBORS, RATIO, BATCH = 2, 0.5, 96


def masks_by_loop(student: list[Tensor], teacher: list[Tensor], galleries: list[Tensor]) -> list[Tensor]:
    """Compute the masks of one step image by image. The galleries already contain the batch."""
    masks = []
    for s, t, gallery in zip(student, teacher, galleries, strict=True):
        similarity = F.normalize(t.double()) @ F.normalize(gallery.double()).T
        unimportant = torch.ones(s.shape[1], dtype=torch.bool)
        for image in range(len(s)):
            for row in similarity[image].argsort(descending=True, stable=True)[:NEIGHBORS]:
                order = (s[image] * gallery[row]).abs().argsort(stable=True)
                listed = torch.zeros_like(unimportant)
                listed[order[: int(s.shape[1] * RATIO)]] = True
                unimportant &= listed
        masks.append((~unimportant).float())
    return masks


def features(rows: int, widths: list[int]) -> list[Tensor]:
    """Draw features whose channels differ in scale, so that some channels are unimportant for every image."""
    return [torch.randn(rows, width) * torch.linspace(0.01, 2, width) ** 2 for width in widths]


def products(teacher: list[Tensor], galleries: list[Tensor]) -> None:
    """Multiply batch and queue of every block: the part that every exact search needs."""
    for t, gallery in zip(teacher, galleries, strict=True):
        t @ gallery.T


def timed(function: Callable[..., Any], *arguments: list[Tensor]) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="8 blocks of 32 to 256 channels, queue 2,400")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    widths = [32, 32, 64, 64, 128, 128, 256, 256] if arguments.small else [64] * 3 + [128] * 4 + [256] * 23 + [512] * 3
    queue_size = 2_400 if arguments.small else 24_000

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    reset = GradientReset(widths, queue_size, neighbors=NEIGHBORS, ratio=RATIO, recompute=True)
    reset(features(BATCH, widths), features(BATCH, widths))
    for queue in (reset.get_buffer(f"queue{i}") for i in range(len(widths))):
        queue.copy_(F.normalize(features(queue_size, [queue.shape[1]])[0]))
    reset.filled = queue_size

    galleries = [reset.get_buffer(f"queue{i}") for i in range(len(widths))]
    times = []
    for _ in range(arguments.rounds):
        student, teacher = features(BATCH, widths), features(BATCH, widths)
        update, masks = timed(reset, student, teacher)
        product, _ = timed(products, teacher, galleries)
        loop, expected = timed(masks_by_loop, student, teacher, galleries)
        assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True)), "the masks differ"
        times.append((loop, update, product))
    loop, update, product = map(min, zip(*times, strict=True))

    reset_share = 1 - torch.cat(reset.masks).mean().item()
    print(
        f"{len(widths)} blocks, batch {BATCH}, queue {queue_size:,}, k {NEIGHBORS}, {torch.get_num_threads()} threads"
    )
    print(f"masks equal in {arguments.rounds} of {arguments.rounds} rounds, {reset_share:.1%} of the channels reset")
    print(f"loop {1e3 * loop:.1f} ms, update {1e3 * update:.1f} ms, products alone {1e3 * product:.1f} ms")
    print(f"loop / update     {loop / update:5.2f}   (target: at least 4)")
    print(f"update / products {update / product:5.2f}   (target: at most 2)")


if __name__ == "__main__":
    main()
