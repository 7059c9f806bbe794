"""Retrieval scores of lists that several processes hold parts of."""

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.evaluate import USUAL, evaluate, gallery_of, scored
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.scores import Scores
from benchmark.retrieval.search import Search


@torch.no_grad()
def evaluate_sharded(
    query: Embeddings, gallery: Embeddings | None = None, protocol: Protocol = USUAL, *, keep: int = 0
) -> Scores:
    """As `evaluate`, for lists of which every process of torch.distributed's default group passes its own part.

    The parts, in the order of the ranks, make up the lists; they may differ in length. Every process gets the whole
    gallery, searches it for its own queries, and gets the measurements of all: the scores are the same on each, and
    the same as of one process. Only re-ranking and pooling need all queries too; every process then does all the work.

    Raises:
        ValueError: As `evaluate`, on every process.
    """
    if protocol.reranking is not None or protocol.multi_query:
        return evaluate(_gathered(query), None if gallery is None else _gathered(gallery), protocol, keep=keep)
    whole = _gathered(gallery_of(query, gallery, protocol))
    before = sum(_everywhere(len(query), query.vectors.device)[: dist.get_rank()])
    positions = torch.arange(before, before + len(query), device=query.identities.device)
    search = Search(query, whole, protocol, positions=positions)
    search.matching.largest = max(_everywhere(search.matching.largest, query.vectors.device))
    values, first = search.measure(keep)
    device = query.vectors.device
    everywhere = {name: _joined(value.to(device)).cpu() for name, value in values.items()}
    neighbours = None
    if first is not None:
        parts = (first.columns, first.similarity, first.relation)
        neighbours = Neighbours(*(_joined(part.to(device)).cpu() for part in parts))
    return scored(everywhere, neighbours, search)


def _gathered(part: Embeddings) -> Embeddings:
    """The whole list, on every process."""
    labels = (label if label is None else _joined(label) for label in (part.cameras, part.tracks))
    return Embeddings(_joined(part.vectors), _joined(part.identities), *labels)


def _joined(part: Tensor) -> Tensor:
    """Parts of a tensor, of any length, one after the other in the order of the ranks."""
    lengths = _everywhere(len(part), part.device)
    whole = part.new_empty(sum(lengths), *part.shape[1:])
    for rank, rows in enumerate(whole.split(lengths)):
        if rank == dist.get_rank():
            rows.copy_(part)
        dist.broadcast(rows, src=rank)
    return whole


def _everywhere(number: int, device: torch.device) -> list[int]:
    """This number of every process."""
    own = torch.tensor([number], device=device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    return [int(each) for each in every]
