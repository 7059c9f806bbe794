"""Retrieval scores of one list of embeddings against another."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.product import Precision
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.scores import Scores
from benchmark.retrieval.search import Search

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
    million of them. Re-ranking, expansion and pooling take more, as they say; lower precision, nine bytes of a query.

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
    if protocol.multi_query:
        query = query.pooled()
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
        raise ValueError(f"{queries} queries have no positive {search.why_nothing()}")
    return Scores(search.protocol.recall_at, **values, neighbours=neighbours)


def _one_list(query: Embeddings, gallery: Embeddings) -> bool:
    if not torch.equal(query.identities, gallery.identities):
        return False
    return query.cameras is None or gallery.cameras is None or torch.equal(query.cameras, gallery.cameras)
