"""Several processes find what one finds."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmark.retrieval import Embeddings, KReciprocal, Protocol, QueryExpansion, Scores, evaluate, evaluate_sharded

PROTOCOLS = {
    "re-identification": Protocol(),
    "leave-one-out": Protocol(camera_rule=False, query_in_gallery=True),
    "expanded": Protocol(expansion=QueryExpansion(k=3)),
    "expanded leave-one-out": Protocol(
        camera_rule=False, query_in_gallery=True, expansion=QueryExpansion(k=3), ties="optimistic"
    ),
    "re-ranked": Protocol(reranking=KReciprocal(k1=5, k2=2)),
}


def clustered(count: int, seed: int) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(11, 8, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(10, (count,), generator=generator)
    labels[40 : 40 + count // 6] = 10  # the identity with the most images, for which one process alone asks
    vectors = centres[labels] + torch.randn(count, 8, generator=generator)
    return Embeddings(vectors, labels, torch.randint(3, (count,), generator=generator))


def values(scores: Scores) -> list[torch.Tensor]:
    neighbours = scores.neighbours
    return [
        scores.average_precision,
        scores.first_match_rank,
        scores.precision_at,
        neighbours.gallery_index,
        neighbours.similarity,
        neighbours.relevance,
    ]


def work(rank: int, processes: int, folder: Path) -> None:
    """What each of them does, run as a script: not every way to start the tests lets a child import them."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    query, gallery = clustered(241, seed=0), clustered(603, seed=1)
    parts = [part.take(torch.arange(len(part)).tensor_split(processes)[rank]) for part in (query, gallery)]
    found = {}
    for name, protocol in PROTOCOLS.items():
        scores = evaluate_sharded(parts[0], None if protocol.query_in_gallery else parts[1], protocol, keep=4)
        found[name] = values(scores)
    with pytest.raises(ValueError, match="a gallery is needed"):
        evaluate_sharded(parts[0])
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 3])
def test_the_same_as_one_process(tmp_path: Path, processes: int):
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(processes), str(tmp_path)])
        for rank in range(processes)
    ]
    assert [process.wait(timeout=300) for process in started] == [0] * processes
    query, gallery = clustered(241, seed=0), clustered(603, seed=1)
    for rank in range(processes):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, protocol in PROTOCOLS.items():
            expected = evaluate(query, None if protocol.query_in_gallery else gallery, protocol, keep=4)
            for one, other in zip(found[name], values(expected), strict=True):
                torch.testing.assert_close(
                    one, other, rtol=0, atol=1e-6 if one.dtype == torch.float32 else 0, equal_nan=True
                )


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
