"""What the rows of a board are compared to."""

from benchmark.results.board import Board
from benchmark.results.record import Record
from benchmark.results.summary import summarise


def test_of_several_teachers_a_row_is_compared_to_its_own(record):
    teachers = [record("none", role="teacher", mAP=mAP, variant=name) for mAP, name in ((0.8, "a"), (0.7, "b"))]
    student = record("kd", mAP=0.75)
    assert student.teacher is not None
    student = student.model_copy(update={"teacher": student.teacher.model_copy(update={"record": teachers[1].id})})
    board = Board(summarise([with_queries(each) for each in (*teachers, student)]), None)
    gains = {(row.method, row.mAP.mean): gain for row, gain in zip(board.rows, board.gains["teacher"], strict=True)}
    assert round(gains["kd", 0.75].mean, 6) == 0.05
    assert gains["teacher", 0.8] is None and gains["teacher", 0.7] is None


def test_a_name_of_several_lines_stays_in_its_cell(record):
    content = record("kd").model_dump(mode="json")
    content["network"]["name"] = "resnet\n| 99.9 |\n"
    (cells,) = Board(summarise([Record.model_validate(content)]), None).cells
    assert r"resnet \| 99.9 \|" in cells and "\n" not in "".join(cells)


def with_queries(made: Record) -> Record:
    """With the average precision of every query, all the same."""
    content = made.model_dump(mode="json")
    symmetric = content["scores"]["symmetric"]
    counted = [symmetric["mAP"]] * (symmetric["queries"] - symmetric["skipped"])
    content["scores"]["average_precision"] = [None] * symmetric["skipped"] + counted
    return Record.model_validate(content)
