"""Looking at what was retrieved: the worst queries, and those that a student lost against its teacher."""

from benchmark.inspection.html import Names, inspection_page
from benchmark.inspection.inspect import Comparison, Entry, InspectedQuery, Inspection, RankedList, Summary, inspect
from benchmark.inspection.sheet import inspection_sheet

__all__ = [
    "Comparison",
    "Entry",
    "InspectedQuery",
    "Inspection",
    "Names",
    "RankedList",
    "Summary",
    "inspect",
    "inspection_page",
    "inspection_sheet",
]
