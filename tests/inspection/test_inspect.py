"""Selection of queries and the statistics over all of them."""

import math
from dataclasses import replace

import pytest
import torch

from benchmark.inspection import inspect
from benchmark.retrieval import Embeddings, Protocol, evaluate


def test_worst_queries_are_ascending_and_exclude_skipped(samples, inspection):
    query, _ = samples
    assert [worst.sample for worst in inspection.worst] == [query[1], query[0], query[3]]  # ties in query order
    assert [worst.student.average_precision for worst in inspection.worst] == [0.1, 0.5, 0.5]
    assert [worst.teacher.average_precision for worst in inspection.worst] == [0.05, 0.75, 0.5]
    assert (inspection.queries, inspection.skipped) == (4, 1)


def test_drops_are_the_queries_below_the_teacher(samples, inspection):
    query, _ = samples
    assert [drop.sample for drop in inspection.drops] == [query[0]]
    assert inspection.drops[0].difference == pytest.approx(-0.25)
    assert inspection.comparison == (1, 1, 1)


def test_largest_drop_comes_first(samples, student, teacher):
    better = replace(teacher, average_precision=torch.tensor([0.75, 0.9, math.nan, 0.6], dtype=torch.float64))
    query, _ = samples
    inspection = inspect(*samples, student=student, teacher=better, count=2)
    assert [drop.sample for drop in inspection.drops] == [query[1], query[0]]
    assert inspection.comparison == (0, 0, 3)


def test_count_limits_the_selection(samples, student, teacher):
    query, _ = samples
    inspection = inspect(*samples, student=student, teacher=teacher, count=1)
    assert [worst.sample for worst in inspection.worst] == [query[1]]


def test_ignored_entries_have_no_rank(samples, inspection):
    _, gallery = samples
    student, teacher = inspection.worst[1].student, inspection.worst[1].teacher
    assert [entry.rank for entry in student.entries] == [None, 1, 2]
    assert [entry.relevance for entry in student.entries] == [-1, 0, 1]
    assert [entry.sample for entry in student.entries] == [gallery[0], gallery[1], gallery[2]]
    assert [entry.similarity for entry in student.entries] == pytest.approx([0.9, 0.5, 0.1])
    assert [entry.rank for entry in teacher.entries] == [1, None, 2]
    assert (student.first_match_rank, inspection.worst[1].positives) == (4, 2)


def test_summary(inspection):
    assert inspection.student.mAP == pytest.approx(1.1 / 3)
    assert inspection.student.recall == {1: 0.0, 5: 1.0}
    assert inspection.student.histogram == (0, 1, 0, 0, 0, 2, 0, 0, 0, 0)
    assert inspection.teacher.histogram == (1, 0, 0, 0, 0, 1, 0, 1, 0, 0)


def test_last_bin_includes_one(samples, student):
    perfect = replace(student, average_precision=torch.tensor([1.0, 0.9, math.nan, 0.0], dtype=torch.float64))
    assert inspect(*samples, student=perfect, count=1).student.histogram == (1, 0, 0, 0, 0, 0, 0, 0, 0, 2)


def test_without_teacher(without_teacher):
    assert without_teacher.teacher is without_teacher.comparison is None
    assert without_teacher.drops == ()
    assert len(without_teacher.worst) == 3
    assert all(worst.teacher is worst.difference is None for worst in without_teacher.worst)


def test_ranked_lists_agree_with_an_evaluation(samples):
    query, gallery = samples
    generator = torch.Generator().manual_seed(0)

    def embed(part):
        labels = (torch.tensor([getattr(sample, name) for sample in part]) for name in ("identity", "camera"))
        return Embeddings(torch.randn(len(part), 4, generator=generator), *labels)

    scores = evaluate(embed(query), embed(gallery), Protocol(), keep=6)
    for worst in inspect(query, gallery, student=scores, count=4).worst:
        correct = [entry for entry in worst.student.entries if entry.relevance == 1]
        assert correct[0].rank == worst.student.first_match_rank
        assert len(correct) == worst.positives
        assert {entry.sample.identity for entry in correct} == {worst.sample.identity}


def test_rejects_scores_and_lists_that_do_not_fit(samples, student, teacher):
    query, gallery = samples
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        inspect(query, gallery, student=student, count=0)
    with pytest.raises(ValueError, match="the scores of the teacher have no neighbors: call `evaluate` with `keep`"):
        inspect(query, gallery, student=student, teacher=replace(teacher, neighbors=None), count=1)
    with pytest.raises(ValueError, match="scores of the student are of 4 queries, but 3 queries are given"):
        inspect(query[:3], gallery, student=student, count=1)
    with pytest.raises(ValueError, match="include index 5, but the gallery has 5 images"):
        inspect(query, gallery[:5], student=student, count=1)
    other = replace(teacher, positives=teacher.positives + (teacher.positives > 0))
    with pytest.raises(ValueError, match="were scored on different queries or galleries"):
        inspect(query, gallery, student=student, teacher=other, count=1)
