"""The contract of a method."""

import pytest

from benchmark.method import Needs, as_tuple


def test_needs_are_combined():
    assert Needs(teacher=False) | Needs(classifier=True) == Needs(classifier=True)


class TestSeveralTeachers:
    SEVERAL = Needs(several_teachers=True)

    def test_are_possible_for_methods_that_take_them_or_use_none(self):
        assert [needs.takes_several for needs in (self.SEVERAL, Needs(teacher=False), Needs())] == [True, True, False]

    def test_are_possible_for_a_combination_if_they_are_for_all_parts(self):
        assert (self.SEVERAL | self.SEVERAL).several_teachers
        assert (Needs(teacher=False) | self.SEVERAL).several_teachers
        assert not (self.SEVERAL | Needs(classifier=True)).takes_several
        assert Needs(teacher=False) | Needs(teacher=False) == Needs(teacher=False)

    def test_a_tuple_is_received_of_several_only(self):
        assert self.SEVERAL.received(["a", "b"]) == ("a", "b")
        assert self.SEVERAL.received(["a"]) == Needs().received(["a", "b"]) == "a"
        assert self.SEVERAL.received([]) is Needs().received([]) is None
        assert [as_tuple(each) for each in (None, 1, (1, 2))] == [(), (1,), (1, 2)]


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        (Needs(teacher=False), "Needs no teacher."),
        (
            Needs(teacher=False, same_backbone=True),
            "Needs no teacher, but a student with the teacher's backbone.",
        ),
        (Needs(), "Needs a teacher."),
        (Needs(several_teachers=True), "Needs one or more teachers."),
        (Needs(classifier=True), "Needs a teacher and the teacher's classifier."),
        (
            Needs(classifier=True, sample_index=True),
            "Needs a teacher, the teacher's classifier and the index of every image.",
        ),
    ],
)
def test_needs_are_described(needs, sentence):
    assert needs.describe() == sentence
