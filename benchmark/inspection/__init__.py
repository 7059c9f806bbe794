"""Qualitative results: the queries with the lowest AP, and the queries with the largest AP drops from the teacher."""

from benchmark.inspection.embedding_map import EmbeddingMap, map_embeddings
from benchmark.inspection.html import inspection_page
from benchmark.inspection.inspect import Entry, InspectedQuery, Inspection, RankedList, Summary, inspect
from benchmark.inspection.saliency import Saliency, saliency
from benchmark.inspection.sheet import inspection_sheet

__all__ = [
    "EmbeddingMap",
    "Entry",
    "InspectedQuery",
    "Inspection",
    "RankedList",
    "Saliency",
    "Summary",
    "inspect",
    "inspection_page",
    "inspection_sheet",
    "map_embeddings",
    "saliency",
]
