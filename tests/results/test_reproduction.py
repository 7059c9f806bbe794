import io

import numpy as np
import pytest
from rich.console import Console

from benchmark.results.console import reproduction_table
from benchmark.results.record import Record
from benchmark.results.reproduction import Reproduction, Verdict


def seeds(record, *mAPs):
    return tuple(record(seed=seed, mAP=mAP) for seed, mAP in enumerate(mAPs, start=1))


def changed(record, path, value):
    """The record with another value at a path such as "network.weights"."""
    content = record.model_dump(mode="json")
    *parents, last = path.split(".")
    holder = content
    for name in parents:
        holder = holder[name]
    holder[last] = value
    return Record.model_validate(content)


def judged(record, values):
    """The record with these average precisions."""
    content = record.model_dump(mode="json")
    scores = {"mAP": float(np.mean(values)), "queries": len(values), "skipped": 0}
    content["scores"]["symmetric"] |= scores
    content["scores"]["average_precision"] = values
    return Record.model_validate(content)


def test_what_ran_elsewhere_with_the_same_result_is_bit_same(record):
    found = record(created="2031-01-01T00:00:00Z", commit="abc", timing={"train_seconds": 1.0, "evaluate_seconds": 1.0})
    found = changed(found, "environment.torch", "3.0")
    found = changed(found, "recipe.runtime", {"cache": "here"})  # its hash counts
    reproduction = Reproduction(record(), found)
    assert (reproduction.verdict, reproduction.disagreements) == (Verdict.BIT_SAME, [])
    assert "weights included" in reproduction.explain()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("network.weights", "b" * 64, "network.weights"),
        ("network.cost.macs", 1, "network.cost"),
        ("scores.symmetric.mINP", 0.1, "scores.symmetric"),
        ("teacher.scores.mAP", 0.1, "teacher.scores"),
        ("data.fingerprint", "e" * 64, "data.fingerprint"),
        ("recipe_hash", None, "recipe_hash"),
    ],
)
def test_whatever_differs_is_named_and_not_bit_same(record, path, value, named):
    found = record(variant="other") if path == "recipe_hash" else changed(record(), path, value)
    reproduction = Reproduction(record(), found)
    assert reproduction.verdict is Verdict.DIFFERS
    assert named in reproduction.disagreements
    assert f"Not the same: {', '.join(reproduction.disagreements)}." in reproduction.explain()


def test_what_the_first_versions_did_not_record_is_no_difference(record):
    found = changed(judged(record(), [0.5, 0.7]), "scores.symmetric.mAP_at_R", 0.4)
    found = changed(found, "data.protocol", found.data.protocol | {"ties": "pessimistic"})
    before = changed(changed(found, "scores.average_precision", None), "scores.symmetric.mAP_at_R", None)
    before = changed(before, "data.protocol", record().data.protocol)
    assert Reproduction(before, found).verdict is Verdict.BIT_SAME
    assert Reproduction(found, before).verdict is Verdict.DIFFERS


@pytest.mark.parametrize(
    ("mAP", "verdict"),
    [
        (0.7399, Verdict.WITHIN_SPREAD),
        (0.7001, Verdict.WITHIN_SPREAD),
        (0.7401, Verdict.DIFFERS),
        (0.6999, Verdict.DIFFERS),
    ],
)
def test_the_spread_is_two_deviations_about_the_record(record, mAP, verdict):
    """Of 0.60, 0.61 and 0.62, whose sample standard deviation is 0.01, wherever their mean lies."""
    reproduction = Reproduction(record(mAP=0.72), record(mAP=mAP), seeds(record, 0.60, 0.61, 0.62))
    assert reproduction.spread == pytest.approx(0.02)
    assert reproduction.verdict is verdict
    assert "Spread of the seeds: 2.00 points, 2 sample standard deviations of the mAP over 3 other seeds." in (
        reproduction.explain()
    )


@pytest.mark.parametrize(("others", "counted"), [((), "are 0"), ((0.71,), "is 1")])
def test_fewer_than_two_other_seeds_make_no_spread(record, others, counted):
    reproduction = Reproduction(record(mAP=0.72), record(mAP=0.7201), seeds(record, *others))
    assert reproduction.verdict is Verdict.DIFFERS
    told = reproduction.explain()
    assert f"No spread is known: it takes records of two other seeds beside this one, and there {counted}." in told
    assert "mAP differs by +0.01 points, without an interval" in told


def test_the_interval_is_that_of_the_queries(record):
    before = [0.5, 0.6, 0.7, 0.8]
    found = [value + 0.02 for value in before]
    told = Reproduction(judged(record(), before), judged(record(), found)).explain()
    assert "mAP differs by +2.00 points, with [+2.00, +2.00] as the 95 % interval of a paired bootstrap" in told


def test_the_table_shows_both(record):
    found = changed(record(mAP=0.7312, macs=21e6), "network.weights", "b" * 64)
    found = changed(found, "scores.symmetric.recall", {"1": 0.8312, "5": 0.9312})
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(reproduction_table(Reproduction(record(mAP=0.72), found)))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["cdd", "on", "glyphs,", "seed", "0"] in lines
    for row in (
        ["mAP", "72.00", "73.12"],
        ["R@5", "92.00", "93.12"],
        ["R@10", "97.00", "-"],
        ["parameters", "1,100,000", "1,050,000"],
        ["MACs", "22,000,000", "21,000,000"],
        ["weights", "a" * 16, "b" * 16],
    ):
        assert row in lines


def test_other_data_are_no_reproduction_whatever_the_score(record):
    found = changed(record(mAP=0.72), "data.fingerprint", "e" * 64)
    reproduction = Reproduction(record(mAP=0.72), found, seeds(record, 0.6, 0.8))
    assert reproduction.spread > 0.1 and reproduction.verdict is Verdict.DIFFERS
