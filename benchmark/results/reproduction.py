"""A record beside that of the same run done again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmark.results.comparison import Gain
from benchmark.results.record import Record
from benchmark.results.rows import Statistic, summarise


class Verdict(StrEnum):
    """What is said of a reproduction, from the best to the worst."""

    BIT_SAME = "bit-same"
    WITHIN_SPREAD = "within the spread of the seeds"
    DIFFERS = "differs"


DEVIATIONS = 2
"""The spread of the seeds, in sample standard deviations."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Two records of one recipe.

    Args:
        record: The one that is checked.
        found: That of its recipe run again.
        others: Records that differ from the first in nothing but the seed.
    """

    record: Record
    found: Record
    others: tuple[Record, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Bit-same where nothing deterministic that both hold differs; else by the mAP, against the spread.

        Of other data, it differs whatever the mAP.
        """
        if not self.disagreements:
            return Verdict.BIT_SAME
        if any(field.startswith("data.") for field in self.disagreements):
            return Verdict.DIFFERS
        within = self.spread is not None and abs(self.difference) <= self.spread
        return Verdict.WITHIN_SPREAD if within else Verdict.DIFFERS

    @property
    def difference(self) -> float:
        """By how much the mAP is above the record's."""
        return self.found.scores.symmetric.mAP - self.record.scores.symmetric.mAP

    @property
    def spread(self) -> float | None:
        """Two sample standard deviations of the other seeds' mAP; None where there are fewer than two of them.

        The record itself does not count: a wrong one would widen the spread that it is judged by.
        """
        deviation = Statistic.of([record.scores.symmetric.mAP for record in self.others]).std if self.others else None
        return None if deviation is None else DEVIATIONS * deviation

    @property
    def disagreements(self) -> list[str]:
        """What differs of all that is deterministic, such as "network.weights".

        Figures that the first versions did not record are no difference. Of the recipe its hash counts: the rest of it,
        such as the folder of a cache, cannot change a result.
        """
        before, now = self.record.deterministic(), self.found.deterministic()
        return list(dict.fromkeys(".".join(path[:2]) for path in _differing(before, now) if path[0] != "recipe"))

    def explain(self) -> str:
        """The reasons for the verdict, in sentences."""
        if not self.disagreements:
            return "All that depends on neither clock nor place agrees, the weights included."
        sentences = [f"Not the same: {', '.join(self.disagreements)}.", self._explain_difference()]
        if self.spread is None:
            known = len(self.others)
            sentences.append(
                f"No spread is known: it takes records of two other seeds beside this one, and there "
                f"{'is 1' if known == 1 else f'are {known}'}."
            )
        else:
            sentences.append(
                f"Spread of the seeds: {100 * self.spread:.2f} points, {DEVIATIONS} sample standard deviations of the "
                f"mAP over {len(self.others)} other seeds."
            )
        return " ".join(sentences)

    def _explain_difference(self) -> str:
        points = f"mAP differs by {100 * self.difference:+.2f} points"
        (found,), (record,) = summarise([self.found]), summarise([self.record])
        gain = Gain.of(found, record)
        if gain is None:
            return f"{points}, without an interval: the records do not both hold the scores of the same queries."
        low, high = 100 * gain.interval.low, 100 * gain.interval.high
        return f"{points}, with [{low:+.2f}, {high:+.2f}] as the 95 % interval of a paired bootstrap over the queries."


def _differing(before: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where `now` says something else than `before` says."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key, value in before.items():
            yield from _differing(value, now.get(key), (*path, key))
    elif before is not None and before != now:
        yield path
