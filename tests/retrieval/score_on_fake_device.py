"""Script of test_device: evaluates on the CPU and on the fake device, and prints differences by protocol as JSON."""

import json

import pytest
import torch
from fake_device import COPIED_BACK, FAKE
from torch import Tensor

from benchmark.retrieval import Embeddings, KReciprocal, Protocol, QueryExpansion, Scores, evaluate
from benchmark.retrieval import _chunks as chunks
from benchmark.retrieval._search import _StreamRanker

QUERIES, IMAGES, KEEP = 70, 300, 5
PROTOCOLS = {
    "camera rule": Protocol(),
    "optimistic ties": Protocol(ties="optimistic", average_precision="trapezoid"),
    "leave-one-out": Protocol(camera_rule=False, query_in_gallery=True),
    "streamed": Protocol(),
    "tracks": Protocol(tracks=True),
    "junk and distractors": Protocol(junk=(3,), distractors=(4,)),
    "expansion": Protocol(expansion=QueryExpansion(k=3)),
    "re-ranking": Protocol(reranking=KReciprocal(k1=6, k2=3)),
}


def random_list(count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Vectors with identities, cameras and tracks. Products of these vectors are exact, and many are equal."""
    track = torch.randint(count // 3, (count,), generator=generator)
    identity, camera = track % 20, track % 7
    centers = torch.randint(2, (20, 64), generator=torch.Generator().manual_seed(0))
    flipped = torch.rand(count, 64, generator=generator) < 0.3
    return (centers[identity] ^ flipped) / 4 - 1 / 8, identity, camera, track


def scores(name: str, device: torch.device) -> Scores:
    generator = torch.Generator().manual_seed(1)
    query, gallery = (
        Embeddings(*(part.to(device) for part in random_list(count, generator))) for count in (QUERIES, IMAGES)
    )
    protocol = PROTOCOLS[name]
    with pytest.MonkeyPatch.context() as patch:
        if name == "streamed":
            patch.setattr(chunks, "CHUNK_BYTES", 2**14)
            patch.setattr(_StreamRanker, "is_suitable", staticmethod(lambda gallery: True))
        return evaluate(query, None if protocol.query_in_gallery else gallery, protocol, keep=KEEP)


def compare(name: str) -> dict[str, float]:
    """Return the maximum difference of scores, and how many numbers per query were copied back to the CPU."""
    on_cpu = scores(name, torch.device("cpu"))
    COPIED_BACK.clear()
    on_fake = scores(name, FAKE)
    copied = sum(part.numel() for part in COPIED_BACK)
    differences = [(getattr(on_cpu, part) - getattr(on_fake, part)).abs().nan_to_num() for part in Scores.per_query()]
    return {
        "mAP": on_cpu.mAP,
        "difference": max(part.max().item() for part in differences),
        "copied": copied / on_cpu.queries,
    }


with pytest.raises(RuntimeError, match=r"aten.add.Tensor of tensors on two devices"):
    torch.ones(2) + torch.ones(2, device=FAKE)
print(json.dumps({name: compare(name) for name in PROTOCOLS}))
