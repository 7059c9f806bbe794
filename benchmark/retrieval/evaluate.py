"""Retrieval scores of lists that several processes hold parts of."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.retrieval._matching import Neighbours
from benchmark.retrieval._product import Precision
from benchmark.retrieval._search import Search
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.scores import Scores

USUAL = Protocol()
_SAMPLE = 256
"""Queries on which the error of a product in lower precision is measured."""


@torch.no_grad()
def evaluate(
    query: Embeddings,
    gallery: Embeddings | None = None,
    protocol: Protocol = USUAL,
    *,
    precision: Precision = "float32",
    keep: int = 0,
) -> Scores:
    """Rank the gallery for every query by cosine similarity and score the rankings by the protocol.

    Where the protocol says that query and gallery are one list, `gallery` is either None or the same list embedded by
    another model. Works on the device of the embeddings.

    The result depends neither on the order of the gallery nor, beyond the rounding of products, on how lists are cut
    into chunks. Only which of several images at one distance re-ranking or expansion takes last is up to the order.

    Takes less than 200 MB beside the embeddings and the scores (some 72 bytes of a query), of any number of queries and
    images, as long as no more than a million images are of one identity. Where tracks are ranked, no more than a
    million of them. Re-ranking and expansion take more, as they say; lower precision, nine bytes of a query.

    Args:
        query: The images that are looked for.
        gallery: The images that are searched.
        protocol: How the rankings are judged.
        precision: Of the product of queries and gallery. Less than float32 is faster and moves the scores, by an amount
            that `Scores.rounding_error` states. On a processor without products of bf16, torch computes in float32.
        keep: The first so many entries of every ranked list are kept, in `Scores.neighbours`.

    Raises:
        ValueError: The two lists do not fit each other or the protocol, or no query has a valid positive.
    """
    gallery = gallery_of(query, gallery, protocol)
    search = Search(query, gallery, protocol, precision)
    values, neighbours = search.measure(keep)
    scores = scored(values, neighbours, search)
    if precision == "float32":
        return scores
    valid = scores.valid.nonzero().flatten()
    sample = valid[:: -(-len(valid) // _SAMPLE)]
    chosen = sample.to(query.vectors.device)
    exact, _ = Search(query.take(chosen), gallery, protocol, positions=chosen).measure()
    moved = (scores.average_precision[sample] - exact["average_precision"]).abs()
    return replace(scores, rounding_error=moved.mean().item())


def gallery_of(query: Embeddings, gallery: Embeddings | None, protocol: Protocol) -> Embeddings:
    """What is searched: the gallery, or the queries where they are their own.

    Raises:
        ValueError: There is none, or it is not the list of queries where both are one.
    """
    if gallery is None:
        if not protocol.query_in_gallery:
            raise ValueError("a gallery is needed: the protocol does not say that the queries are their own gallery")
        return query
    if protocol.query_in_gallery and not _one_list(query, gallery):
        raise ValueError("the protocol says that query and gallery are one list, but their labels differ")
    return gallery


def scored(values: Mapping[str, Any], neighbours: Neighbours | None, search: Search) -> Scores:
    """The scores that a search has measured: `values` by the names that they have in `Scores`.

    Raises:
        ValueError: No query has a valid positive.
    """
    queries = len(values["positives"])
    if not values["positives"].any():
        raise ValueError(f"{queries} queries have no positive {search.no_match_reason()}")
    return Scores(search.protocol.recall_at, **values, neighbours=neighbours)


def _one_list(query: Embeddings, gallery: Embeddings) -> bool:
    if not torch.equal(query.identities, gallery.identities):
        return False
    return query.cameras is None or gallery.cameras is None or torch.equal(query.cameras, gallery.cameras)


@torch.no_grad()
def evaluate_sharded(
    query: Embeddings, gallery: Embeddings | None = None, protocol: Protocol = USUAL, *, keep: int = 0
) -> Scores:
    """As `evaluate`, for lists of which every process of torch.distributed's default group passes its own part.

    The parts, in the order of the ranks, make up the lists; they may differ in length. Every process gets the whole
    gallery, searches it for its own queries, and gets the measurements of all: the scores are the same on each, and
    the same as of one process. Only re-ranking needs all queries too; every process then does all the work.

    Raises:
        ValueError: As `evaluate`, on every process.
    """
    if protocol.reranking is not None:
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
        parts = (first.gallery_index, first.similarity, first.relevance)
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
