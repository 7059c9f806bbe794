"""Evaluate made-up lists on the CPU and elsewhere, and print as JSON how that compares, by protocol."""

import json

import pytest
import torch
from elsewhere import HERE, LEFT
from torch import Tensor

from benchmark.retrieval import Embeddings, KReciprocal, Protocol, QueryExpansion, Scores, evaluate
from benchmark.retrieval import _chunks as chunks
from benchmark.retrieval._search import Streamed

QUERIES, IMAGES, KEEP = 70, 300, 5
PROTOCOLS = {
    "camera rule": Protocol(),
    "optimistic ties": Protocol(ties="optimistic", average_precision="trapezoid"),
    "one list": Protocol(camera_rule=False, query_in_gallery=True),
    "streamed": Protocol(),
    "tracks": Protocol(tracks=True),
    "junk and distractors": Protocol(junk=(3,), distractors=(4,)),
    "expansion": Protocol(expansion=QueryExpansion(k=3)),
    "re-ranking": Protocol(reranking=KReciprocal(k1=6, k2=3)),
}


def labelled(count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Vectors with identities, cameras and tracks. Products of these vectors are exact, and often the same."""
    track = torch.randint(count // 3, (count,), generator=generator)
    identity, camera = track % 20, track % 7
    centres = torch.randint(2, (20, 64), generator=torch.Generator().manual_seed(0))
    flipped = torch.rand(count, 64, generator=generator) < 0.3
    return (centres[identity] ^ flipped) / 4 - 1 / 8, identity, camera, track


def scores(name: str, device: torch.device) -> Scores:
    """Of the lists, on a device."""
    generator = torch.Generator().manual_seed(1)
    query, gallery = (
        Embeddings(*(part.to(device) for part in labelled(count, generator))) for count in (QUERIES, IMAGES)
    )
    protocol = PROTOCOLS[name]
    with pytest.MonkeyPatch.context() as patch:
        if name == "streamed":
            patch.setattr(chunks, "CHUNK_BYTES", 2**14)
            patch.setattr(Streamed, "suits", staticmethod(lambda gallery: True))
        return evaluate(query, None if protocol.query_in_gallery else gallery, protocol, keep=KEEP)


def compared(name: str) -> dict[str, float]:
    """How far values are apart, and how many numbers have come back for each query."""
    here = scores(name, torch.device("cpu"))
    LEFT.clear()
    there = scores(name, HERE)
    back = sum(part.numel() for part in LEFT)
    apart = [(getattr(here, part) - getattr(there, part)).abs().nan_to_num().max() for part in Scores.per_query()]
    return {"mAP": here.mAP, "apart": max(apart).item(), "returned": back / here.queries}


print(json.dumps({name: compared(name) for name in PROTOCOLS}))
