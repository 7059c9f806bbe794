"""The numbers of a leaderboard, for programs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from benchmark.results.statistic import Statistic
from benchmark.results.step_costs import StepCosts
from benchmark.results.summary import Row


class Figure(NamedTuple):
    """A number that rows have: its name and unit in CSV and JSON, the column that it sorts, and where it comes from."""

    name: str
    unit: str
    header: str | None
    of: Callable[[Row], Statistic | None]


def figures(ks: Sequence[int], costs: StepCosts | None) -> list[Figure]:
    """In the order of the columns; `ks` are the K of Recall@K."""
    return [
        Figure("mAP", "fraction", "mAP", lambda row: row.mAP),
        *(Figure(f"recall_at_{k}", "fraction", f"R@{k}", partial(Row.recall, k=k)) for k in ks),
        Figure("asymmetric_mAP", "fraction", "asymmetric mAP", lambda row: row.asymmetric_mAP),
        Figure("parameters", "count", "parameters", lambda row: row.parameters),
        Figure("macs", "count", "MACs", lambda row: row.macs),
        Figure("flops", "count", "FLOPs", lambda row: row.over(lambda of: of.network.cost.flops)),
        Figure("saved_parameters", "fraction", "saved (parameters / MACs)", lambda row: row.saved("parameters")),
        Figure("saved_macs", "fraction", None, lambda row: row.saved("macs")),
        *(Figure(f"latency_batch_{n}", "ms", f"ms, batch {n}", partial(Row.latency, batch=n)) for n in (1, 64)),
        *([Figure("training_step", "multiple_of_none", "training step", partial(_step, costs))] if costs else []),
    ]


def _step(costs: StepCosts, row: Row) -> Statistic | None:
    return Statistic.where_known([costs.ratios.get(row.method)])
