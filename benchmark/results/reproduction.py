"""Comparison of a record with a rerun of its recipe."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmark.results.comparison import Gain
from benchmark.results.record import Record
from benchmark.results.rows import Statistic, group_records

DEVIATIONS = 2
"""Accepted difference of mAP, in sample standard deviations over the other seeds."""


class Verdict(StrEnum):
    """Result of a reproduction, from best to worst."""

    BIT_IDENTICAL = "bit-identical"
    WITHIN_SPREAD = "within the spread of the seeds"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A record and the record of a rerun.

    Attributes:
        record: The record to verify.
        rerun: The record of the same recipe, run again.
        other_seeds: Records that differ from the first only in the seed.
    """

    record: Record
    rerun: Record
    other_seeds: tuple[Record, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Bit-identical if all deterministic fields agree; otherwise, mAP is compared with the spread over seeds.

        A rerun on other data always differs.
        """
        if not self.disagreements:
            return Verdict.BIT_IDENTICAL
        if any(field.startswith("data.") for field in self.disagreements):
            return Verdict.DIFFERS
        within = self.spread is not None and abs(self.difference) <= self.spread
        return Verdict.WITHIN_SPREAD if within else Verdict.DIFFERS

    @property
    def difference(self) -> float:
        """mAP of the rerun minus mAP of the record."""
        return self.rerun.scores.symmetric.mAP - self.record.scores.symmetric.mAP

    @property
    def spread(self) -> float | None:
        """Two sample standard deviations of the mAP over the other seeds; None with fewer than two of them."""
        # The record itself is left out: a wrong one would widen the spread that it is compared with.
        mAPs = [record.scores.symmetric.mAP for record in self.other_seeds]
        deviation = Statistic.of(mAPs).std if mAPs else None
        return None if deviation is None else DEVIATIONS * deviation

    @property
    def disagreements(self) -> list[str]:
        """The deterministic fields that differ, such as "network.weights".

        Scores that the first versions did not record are not compared. Recipes are compared by their hashes, because
        settings outside the hash, such as a cache folder, cannot change a result.
        """
        before, now = self.record.deterministic(), self.rerun.deterministic()
        return list(dict.fromkeys(".".join(path[:2]) for path in _differing(before, now) if path[0] != "recipe"))

    def explain(self) -> str:
        """Return the reasons for the verdict, in sentences."""
        if not self.disagreements:
            return "All fields that do not depend on time or machine agree, including the weights."
        sentences = [f"Fields that differ: {', '.join(self.disagreements)}.", self._explain_difference()]
        if self.spread is None:
            known = len(self.other_seeds)
            sentences.append(
                "The spread of the seeds is unknown: it takes records of at least two other seeds, and there "
                f"{'is 1' if known == 1 else f'are {known}'}."
            )
        else:
            sentences.append(
                f"Spread of the seeds: {100 * self.spread:.2f} points, {DEVIATIONS} sample standard deviations of the "
                f"mAP over {len(self.other_seeds)} other seeds."
            )
        return " ".join(sentences)

    def _explain_difference(self) -> str:
        points = f"The mAP differs by {100 * self.difference:+.2f} points"
        (rerun,), (record,) = group_records([self.rerun]), group_records([self.record])
        gain = Gain.between(rerun, record)
        if gain is None:
            return f"{points}, without a confidence interval: the records do not hold scores of the same queries."
        low, high = 100 * gain.interval.low, 100 * gain.interval.high
        return f"{points}, with the 95 % confidence interval [{low:+.2f}, {high:+.2f}] (paired bootstrap over queries)."


def _differing(before: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths at which `now` differs from `before`, except where `before` has no value."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key, value in before.items():
            yield from _differing(value, now.get(key), (*path, key))
    elif before is not None and before != now:
        yield path
