"""Methods whose networks cost as much, compared with each other."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from benchmark.results.formatting import difference, percent, quantity
from benchmark.results.gain import Gain, same_data
from benchmark.results.statistic import Statistic
from benchmark.results.summary import TEACHER, Row

_WITHIN = 1.05
"""Networks of one group have at most so many times the MACs of its cheapest."""
_EXPLAINED = "Networks whose MACs lie within 5 % of each other."
_COMPARED = (
    " Differences to the best in points of mAP, with the 95 % interval of a paired bootstrap over the queries; where "
    "that holds zero it is marked ≈: on these queries the two cannot be told apart."
)


def equal_cost_groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Students on the same data whose mean MACs lie within 5 %, cheapest group first; in each the best mAP first."""
    groups: list[list[Row]] = []
    for row in sorted((row for row in rows if row.method != TEACHER), key=lambda row: row.macs.mean):
        equals = (group for group in groups if same_data(row, group[0]))
        group = next((group for group in equals if row.macs.mean <= _WITHIN * group[0].macs.mean), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return [sorted(group, key=lambda row: (-row.mAP.mean, row.method)) for group in groups]


def equal_cost_section(rows: Sequence[Row]) -> str:
    """Markdown of a table for every group with two rows or more; nothing without such a group."""
    groups = [group for group in equal_cost_groups(rows) if len(group) > 1]
    if not groups:
        return ""
    gains = [[Gain.of(row, group[0]) for row in group] for group in groups]
    known = any(gain is not None for of_group in gains for gain in of_group)
    tables = [_table(group, of_group) for group, of_group in zip(groups, gains, strict=True)]
    return "\n\n".join(["## At equal cost", _EXPLAINED + (_COMPARED if known else ""), *tables])


def _table(group: Sequence[Row], gains: Sequence[Gain | None]) -> str:
    content = [
        [
            f"`{row.method}`",
            percent(row.mAP),
            "best" if row is group[0] else difference(gain),
            quantity(row.macs),
            quantity(row.over(lambda record: record.network.cost.parameters)),
        ]
        for row, gain in zip(group, gains, strict=True)
    ]
    title = f"### {' to '.join(dict.fromkeys(_range(group)))} MACs"
    headers = ["method", "mAP", "against the best", "MACs", "parameters"]
    return title + "\n\n" + tabulate(content, headers, tablefmt="github", disable_numparse=True)


def _range(group: Sequence[Row]) -> list[str]:
    """The least and the most MACs of a group."""
    macs = [row.macs.mean for row in group]
    return [quantity(Statistic(min(macs))), quantity(Statistic(max(macs)))]
