import pytest

from benchmark.results.reproduction import Reproduction, Verdict


def seeds(record, *mAPs):
    return tuple(record(seed=seed, mAP=mAP) for seed, mAP in enumerate(mAPs, start=1))


def test_bit_identical_at_another_time_on_another_machine(record, edit):
    rerun = edit(
        record(),
        {
            "created": "2031-01-01T00:00:00Z",
            "commit": "abc",
            "timing.train_seconds": 1.0,
            "environment.torch": "3.0",
            "recipe.runtime": {"cache": "here"},  # recipes are compared by their hashes
        },
    )
    reproduction = Reproduction(record(), rerun)
    assert (reproduction.verdict, reproduction.disagreements) == (Verdict.BIT_IDENTICAL, [])
    assert "including the weights" in reproduction.explain()


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("network.weights", "b" * 64, "network.weights"),
        ("network.cost.macs", 1, "network.cost"),
        ("scores.symmetric.mINP", 0.1, "scores.symmetric"),
        ("teacher.scores.mAP", 0.1, "teacher.scores"),
        ("data.fingerprint", "e" * 64, "data.fingerprint"),
    ],
)
def test_names_what_differs(record, edit, path, value, name):
    reproduction = Reproduction(record(), edit(record(), {path: value}))
    assert reproduction.verdict is Verdict.DIFFERS
    assert reproduction.disagreements == [name]
    assert f"Fields that differ: {name}." in reproduction.explain()


def test_another_recipe_differs(record):
    assert "recipe_hash" in Reproduction(record(), record(variant="other")).disagreements


def test_scores_that_the_first_versions_lack_are_not_compared(record, edit, with_queries):
    rerun = edit(
        with_queries(record()),
        {"scores.symmetric.mAP_at_R": 0.4, "data.protocol.ties": "pessimistic"},
    )
    first = edit(rerun, {"scores.average_precision": None, "scores.symmetric.mAP_at_R": None})
    first = edit(first, {"data.protocol": record().data.protocol})
    assert Reproduction(first, rerun).verdict is Verdict.BIT_IDENTICAL
    assert Reproduction(rerun, first).verdict is Verdict.DIFFERS


def test_reason_in_an_earlier_wording_is_no_difference(record, edit):
    earlier = edit(
        record(), {"scores.asymmetric_reason": "cdd leaves the student's embeddings apart from the teacher's"}
    )
    current = edit(
        record(),
        {"scores.asymmetric_reason": "the method does not align the embedding spaces of student and teacher"},
    )
    assert Reproduction(earlier, current).verdict is Verdict.BIT_IDENTICAL


@pytest.mark.parametrize(
    ("mAP", "verdict"),
    [
        (0.7399, Verdict.WITHIN_SPREAD),
        (0.7001, Verdict.WITHIN_SPREAD),
        (0.7401, Verdict.DIFFERS),
        (0.6999, Verdict.DIFFERS),
    ],
)
def test_spread_is_two_deviations_around_the_record(record, mAP, verdict):
    # The sample standard deviation of 0.60, 0.61 and 0.62 is 0.01; their mean does not matter.
    reproduction = Reproduction(record(mAP=0.72), record(mAP=mAP), seeds(record, 0.60, 0.61, 0.62))
    assert reproduction.spread == pytest.approx(0.02)
    assert reproduction.verdict is verdict
    assert "Spread of the seeds: 2.00 points, 2 sample standard deviations of the mAP over 3 other seeds." in (
        reproduction.explain()
    )


@pytest.mark.parametrize(("others", "count"), [((), "are 0"), ((0.71,), "is 1")])
def test_no_spread_with_fewer_than_two_other_seeds(record, others, count):
    reproduction = Reproduction(record(mAP=0.72), record(mAP=0.7201), seeds(record, *others))
    assert reproduction.verdict is Verdict.DIFFERS
    explanation = reproduction.explain()
    assert f"is unknown: it takes records of at least two other seeds, and there {count}." in explanation
    assert "The mAP differs by +0.01 points, without a confidence interval" in explanation


def test_interval_of_the_difference_is_paired_by_query(record, with_queries):
    before = [0.5, 0.6, 0.7, 0.8]
    after = [value + 0.02 for value in before]
    explanation = Reproduction(with_queries(record(), before), with_queries(record(), after)).explain()
    assert "The mAP differs by +2.00 points, with the 95 % confidence interval [+2.00, +2.00]" in explanation


def test_other_data_differ_whatever_the_score(record, edit):
    rerun = edit(record(mAP=0.72), {"data.fingerprint": "e" * 64})
    reproduction = Reproduction(record(mAP=0.72), rerun, seeds(record, 0.6, 0.8))
    assert reproduction.spread > 0.1 and reproduction.verdict is Verdict.DIFFERS
