"""Evaluation shared among processes."""

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
    "expansion": Protocol(expansion=QueryExpansion(k=3)),
    "expansion, leave-one-out": Protocol(
        camera_rule=False, query_in_gallery=True, expansion=QueryExpansion(k=3), ties="optimistic"
    ),
    "re-ranking": Protocol(reranking=KReciprocal(k1=5, k2=2)),
}


def clustered(count: int, seed: int) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(11, 8, generator=torch.Generator().manual_seed(9))
    identities = torch.randint(10, (count,), generator=generator)
    identities[40 : 40 + count // 6] = 10  # the largest identity, whose queries all belong to one process
    vectors = centers[identities] + torch.randn(count, 8, generator=generator)
    return Embeddings(vectors, identities, torch.randint(3, (count,), generator=generator))


def problem() -> tuple[Embeddings, Embeddings]:
    """Queries and gallery, neither of which can be divided evenly."""
    return clustered(241, seed=0), clustered(603, seed=1)


def tensors(scores: Scores) -> list[torch.Tensor]:
    first = scores.neighbors
    return [
        scores.average_precision,
        scores.first_match_rank,
        scores.precision_at,
        first.gallery_index,
        first.similarity,
        first.relevance,
    ]


def work(rank: int, processes: int, folder: Path) -> None:
    """Evaluate one process's parts, when this file is run as a script."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    query, gallery = (part.take(torch.arange(len(part)).tensor_split(processes)[rank]) for part in problem())
    results = {
        name: tensors(evaluate_sharded(query, None if protocol.query_in_gallery else gallery, protocol, keep=4))
        for name, protocol in PROTOCOLS.items()
    }
    with pytest.raises(ValueError, match="a gallery is needed"):
        evaluate_sharded(query)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_equals_one_process(tmp_path: Path, processes: int):
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(processes), str(tmp_path)])
        for rank in range(processes)
    ]
    assert [process.wait(timeout=300) for process in started] == [0] * processes
    query, gallery = problem()
    shared = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    for name, protocol in PROTOCOLS.items():
        expected = tensors(evaluate(query, None if protocol.query_in_gallery else gallery, protocol, keep=4))
        for results in shared:
            for one, other in zip(results[name], expected, strict=True):
                tolerance = 1e-6 if one.dtype == torch.float32 else 0
                torch.testing.assert_close(one, other, rtol=0, atol=tolerance, equal_nan=True, msg=name)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
