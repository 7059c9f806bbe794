"""Exact evaluation of embeddings, by one process or shared among several."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.retrieval._search import Search
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.scores import Neighbors, Scores

_DEFAULT_PROTOCOL = Protocol()


@torch.no_grad()
def evaluate(
    query: Embeddings,
    gallery: Embeddings | None = None,
    protocol: Protocol = _DEFAULT_PROTOCOL,
    *,
    keep: int = 0,
) -> Scores:
    """Rank the gallery for every query by cosine similarity in float32, and score the rankings.

    Runs on the device of the embeddings. The scores do not depend on the order of the gallery, except that re-ranking
    and expansion choose among equally near images by their order. They depend on the sizes of chunks only through the
    rounding of products.

    Memory: less than 200 MB in addition to the embeddings and the scores (about 72 bytes per query), for any number of
    queries and gallery images, as long as no identity has more than a million images and, where tracks are ranked,
    there are no more than a million tracks. Re-ranking and expansion take more, as documented there.

    Args:
        query: Query images.
        gallery: Gallery images. If the protocol has `query_in_gallery`, None or the query list embedded by another
            network.
        protocol: Evaluation settings.
        keep: Number of first entries of every ranked list to return in `Scores.neighbors`.

    Raises:
        ValueError: The lists do not match each other or the protocol, or no query has a correct match.
    """
    gallery = resolve_gallery(query, gallery, protocol)
    search = Search(query, gallery, protocol)
    return _make_scores(search, *search.measure(keep))


@torch.no_grad()
def evaluate_sharded(
    query: Embeddings, gallery: Embeddings | None = None, protocol: Protocol = _DEFAULT_PROTOCOL, *, keep: int = 0
) -> Scores:
    """Evaluate lists of which every process of torch.distributed's default group has a part.

    The parts, which may differ in length, form the lists in the order of the ranks. Every process receives the whole
    gallery, searches it for its own queries, and returns the scores of all queries, the same as `evaluate` of the whole
    lists. Re-ranking depends on all queries, so that every process then does the whole computation.

    Args:
        query: This process's part of the queries.
        gallery: This process's part of the gallery; see `evaluate`.
        protocol: Evaluation settings.
        keep: Number of first entries of every ranked list to return in `Scores.neighbors`.

    Raises:
        ValueError: As in `evaluate`; raised on every process.
    """
    if protocol.reranking is not None:
        return evaluate(_gather(query), None if gallery is None else _gather(gallery), protocol, keep=keep)
    whole_gallery = _gather(resolve_gallery(query, gallery, protocol))
    device = query.vectors.device
    start = sum(_all_gather_number(len(query), device)[: dist.get_rank()])
    positions = torch.arange(start, start + len(query), device=device)
    search = Search(query, whole_gallery, protocol, positions)
    search.matching.max_matches = max(_all_gather_number(search.matching.max_matches, device))
    own_values, own_first = search.measure(keep)
    values = {name: _concatenate(value.to(device)).cpu() for name, value in own_values.items()}
    first = None
    if own_first is not None:
        parts = (own_first.gallery_index, own_first.similarity, own_first.relevance)
        first = Neighbors(*(_concatenate(part.to(device)).cpu() for part in parts))
    return _make_scores(search, values, first)


def resolve_gallery(query: Embeddings, gallery: Embeddings | None, protocol: Protocol) -> Embeddings:
    """Return the gallery to search: the given one, or the queries if None.

    Raises:
        ValueError: A gallery is needed and missing, or its labels differ from those of the queries though the protocol
            has `query_in_gallery`.
    """
    if gallery is None:
        if not protocol.query_in_gallery:
            raise ValueError("a gallery is needed: only protocols with query_in_gallery search the queries themselves")
        return query
    if protocol.query_in_gallery and not _same_labels(query, gallery):
        raise ValueError(
            "the labels of query and gallery differ, but the protocol has query_in_gallery: pass the same list, or None"
        )
    return gallery


def _same_labels(query: Embeddings, gallery: Embeddings) -> bool:
    if not torch.equal(query.identities, gallery.identities):
        return False
    return query.cameras is None or gallery.cameras is None or torch.equal(query.cameras, gallery.cameras)


def _make_scores(search: Search, values: Mapping[str, Any], neighbors: Neighbors | None) -> Scores:
    if not values["positives"].any():
        queries = len(values["positives"])
        raise ValueError(f"none of {queries} queries has a correct match: {search.no_match_reason()}")
    return Scores(search.protocol.recall_at, **values, neighbors=neighbors)


def _gather(part: Embeddings) -> Embeddings:
    """Return the whole list, on every process."""
    labels = (label if label is None else _concatenate(label) for label in (part.cameras, part.tracks))
    return Embeddings(_concatenate(part.vectors), _concatenate(part.identities), *labels)


def _concatenate(part: Tensor) -> Tensor:
    """Concatenate the processes' parts of a tensor, which may differ in length, in the order of the ranks."""
    lengths = _all_gather_number(len(part), part.device)
    whole = part.new_empty(sum(lengths), *part.shape[1:])
    for rank, rows in enumerate(whole.split(lengths)):
        if rank == dist.get_rank():
            rows.copy_(part)
        dist.broadcast(rows, src=rank)
    return whole


def _all_gather_number(number: int, device: torch.device) -> list[int]:
    """Return the numbers of all processes."""
    own = torch.tensor([number], device=device)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return [int(each) for each in gathered]
