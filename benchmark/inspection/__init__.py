"""Qualitative results: the queries with the lowest AP, and the queries with the largest AP drops from the teacher."""

from benchmark.inspection.html import inspection_page
from benchmark.inspection.inspect import Entry, InspectedQuery, Inspection, RankedList, Summary, inspect
from benchmark.inspection.sheet import inspection_sheet

__all__ = [
    "Entry",
    "InspectedQuery",
    "Inspection",
    "RankedList",
    "Summary",
    "inspect",
    "inspection_page",
    "inspection_sheet",
]
