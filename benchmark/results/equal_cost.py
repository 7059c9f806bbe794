"""Methods whose networks cost as much, compared with each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.results.comparison import Gain, same_data
from benchmark.results.format import Grid, difference, percent, quantity
from benchmark.results.rows import TEACHER, Row, Statistic

_WITHIN = 1.05
"""Networks of one group have at most so many times the MACs of its cheapest."""
_EXPLAINED = "Networks whose MACs lie within 5 % of each other."
_COMPARED = (
    " Differences to the best in points of mAP, with the 95 % interval of a paired bootstrap over the queries; where "
    "that holds zero it is marked ≈: on these queries the two cannot be told apart."
)


@dataclass(frozen=True, slots=True, eq=False)
class CostGroup:
    """Students on the same data whose mean MACs lie within 5 %, the best mAP first."""

    rows: Sequence[Row]
    gains: Sequence[Gain | None]
    """Of each over the best; None where that is not known, and of the best itself."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "CostGroup":
        """Of these rows, in any order."""
        best, *others = sorted(rows, key=lambda row: (-row.mAP.mean, row.method))
        return cls([best, *others], [None, *(Gain.of(row, best) for row in others)])

    @property
    def title(self) -> str:
        """The least and the most MACs: "13.6 M to 13.7 M MACs"."""
        macs = [row.macs.mean for row in self.rows]
        limits = [quantity(Statistic(limit)) for limit in (min(macs), max(macs))]
        return f"{' to '.join(dict.fromkeys(limits))} MACs"


def cost_groups(rows: Iterable[Row]) -> list[CostGroup]:
    """The groups of two rows or more, the cheapest first."""
    groups: list[list[Row]] = []
    for row in sorted((row for row in rows if row.method != TEACHER), key=lambda row: row.macs.mean):
        equals = (group for group in groups if same_data(row, group[0]))
        group = next((group for group in equals if row.macs.mean <= _WITHIN * group[0].macs.mean), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return [CostGroup.of(group) for group in groups if len(group) > 1]


def equal_cost_caption(groups: Sequence[CostGroup]) -> str:
    """What must be said of these groups."""
    known = any(gain is not None for group in groups for gain in group.gains)
    return _EXPLAINED + (_COMPARED if known else "")


def equal_cost_section(groups: Sequence[CostGroup]) -> str:
    """Markdown of a table for every group; nothing without one."""
    if not groups:
        return ""
    tables = [f"### {group.title}\n\n{equal_cost_grid([group]).markdown()}" for group in groups]
    return "\n\n".join(["## At equal cost", equal_cost_caption(groups), *tables])


def equal_cost_grid(groups: Sequence[CostGroup]) -> Grid:
    """The rows of some groups; of several, each row names its own by a number and the MACs."""
    titled = len(groups) > 1
    members = [
        (number, group, row, gain)
        for number, group in enumerate(groups, start=1)
        for row, gain in zip(group.rows, group.gains, strict=True)
    ]
    cells = [
        [
            f"`{row.method}`",
            *([f"{number}: {group.title}"] if titled else []),
            percent(row.mAP),
            "best" if row is group.rows[0] else difference(gain),
            quantity(row.macs),
            quantity(row.parameters),
        ]
        for number, group, row, gain in members
    ]
    numbers: dict[str, list[float | None]] = {
        "mAP": [row.mAP.mean for _, _, row, _ in members],
        "against the best": [
            0.0 if row is group.rows[0] else gain.mean if gain else None for _, group, row, gain in members
        ],
        "MACs": [row.macs.mean for _, _, row, _ in members],
        "parameters": [row.parameters.mean for _, _, row, _ in members],
    }
    headers = ["method", *(["group"] if titled else []), *numbers]
    return Grid(headers, [row.method for _, _, row, _ in members], cells, numbers)
