"""The contract of a method."""

import pytest

from benchmark.method import Needs


def test_needs_are_combined():
    assert Needs(teacher=False) | Needs(classifier=True) == Needs(classifier=True)


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        (Needs(teacher=False), "Needs no teacher."),
        (
            Needs(teacher=False, same_backbone=True),
            "Needs no teacher, but a student with the teacher's backbone.",
        ),
        (Needs(), "Needs a teacher."),
        (Needs(classifier=True), "Needs a teacher and the teacher's classifier."),
        (
            Needs(classifier=True, sample_index=True),
            "Needs a teacher, the teacher's classifier and the index of every image.",
        ),
    ],
)
def test_needs_are_described(needs, sentence):
    assert needs.describe() == sentence
