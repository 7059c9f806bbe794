"""Looking at what was retrieved: the worst queries, and those that a student lost against its teacher."""

from benchmark.inspection.comparison import Comparison
from benchmark.inspection.entry import Entry
from benchmark.inspection.inspected_query import InspectedQuery
from benchmark.inspection.inspection import Inspection, inspect
from benchmark.inspection.names import Names
from benchmark.inspection.page import inspection_page
from benchmark.inspection.ranked_list import RankedList
from benchmark.inspection.sheet import inspection_sheet
from benchmark.inspection.summary import Summary

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
