"""What the rows of a board are compared to."""

from benchmark.results.board import Board
from benchmark.results.record import Record
from benchmark.results.rows import summarise


def test_of_several_teachers_a_row_is_compared_to_its_own(record):
    teachers = [record("none", role="teacher", mAP=mAP, variant=name) for mAP, name in ((0.8, "a"), (0.7, "b"))]
    student = record("kd", mAP=0.75)
    assert student.teacher is not None
    student = student.model_copy(update={"teacher": student.teacher.model_copy(update={"record": teachers[1].id})})
    board = Board(summarise([with_queries(each) for each in (*teachers, student)]), None)
    gains = {(row.method, row.mAP.mean): gain for row, gain in zip(board.rows, board.gains["teacher"], strict=True)}
    assert round(gains["kd", 0.75].mean, 6) == 0.05
    assert gains["teacher", 0.8] is None and gains["teacher", 0.7] is None


def test_a_row_is_not_compared_to_the_teacher_of_others(record):
    """Its own, a checkpoint say, has no record."""
    student = record("kd", mAP=0.75)
    assert student.teacher is not None
    student = student.model_copy(update={"teacher": student.teacher.model_copy(update={"record": None})})
    others = [record("none", role="teacher"), record("none"), record("rkd")]
    board = Board(summarise([with_queries(each) for each in (*others, student)]), None)
    of = {row.method: index for index, row in enumerate(board.rows)}
    assert board.gains["teacher"][of["kd"]] is None and board.gains["none"][of["kd"]] is not None
    assert board.gains["teacher"][of["rkd"]] is not None


def test_a_name_of_several_lines_stays_in_its_cell(record):
    content = record("kd").model_dump(mode="json")
    content["network"]["name"] = "resnet\n| 99.9 |\n"
    *_, cells = Board(summarise([Record.model_validate(content)]), None).grid.cells
    assert r"resnet \| 99.9 \|" in cells and "\n" not in "".join(cells)


def test_teacher_and_none_always_have_a_line(record):
    """Until there is a record of them: what a student's record says of its teacher, and how `none` is run."""
    made = record("kd").model_copy(update={"variant": {"dataset.split": "closed"}})
    board = Board(summarise([made]), None)
    lines = [dict(zip(board.grid.headers, cells, strict=True)) for cells in board.grid.cells]
    assert board.grid.methods == ["teacher", "none", "kd"]
    teacher, none, _ = lines
    assert made.teacher is not None
    assert (teacher["mAP"], teacher["MACs"], teacher["student"]) == (
        f"{100 * made.teacher.scores.mAP:.1f}",
        "60.0 M",
        "-",
    )
    assert none["mAP"] == none["MACs"] == "-"
    assert board.grid.numbers["mAP"] == [made.teacher.scores.mAP, None, made.scores.symmetric.mAP]
    assert board.notes.texts[:2] == [
        "There is no record of its own: this is what that of `kd` says of it.",
        "Not run yet: `benchmark run --method none --dataset glyphs --set dataset.split=closed --seed 0` adds it.",
    ]


def test_every_teacher_without_a_record_has_a_line(record):
    def taught_by(method: str, network: str, mAP: float, seed: int = 0) -> Record:
        made = record(method, seed=seed)
        assert made.teacher is not None
        scores = made.teacher.scores.model_copy(update={"mAP": mAP})
        checkpoint = made.teacher.model_copy(update={"record": None, "network": network, "scores": scores})
        return made.model_copy(update={"teacher": checkpoint})

    students = [taught_by("kd", "small", 0.6 + seed / 100, seed) for seed in range(3)]
    students += [taught_by("rkd", "large", 0.7), taught_by("pkt", "large", 0.7 + 1e-9)]
    board = Board(summarise([*students, record("sp"), record("none", role="teacher", mAP=0.8)]), None)
    assert board.grid.methods == ["teacher", "teacher", "teacher", "none", "kd", "pkt", "rkd", "sp"]
    assert [round(mAP, 6) for mAP in board.grid.numbers["mAP"][:3]] == [0.8, 0.7, 0.6]


def test_none_stands_after_every_teacher(record):
    teachers = [record("none", role="teacher", variant=name) for name in ("default", "b")]
    board = Board(summarise([*teachers, record("kd")]), None)
    assert board.grid.methods == ["teacher", "teacher", "none", "kd"]
    assert [row.method for row in board.rows] == ["teacher", "teacher", "kd"]


def with_queries(made: Record) -> Record:
    """With the average precision of every query, all the same."""
    content = made.model_dump(mode="json")
    symmetric = content["scores"]["symmetric"]
    counted = [symmetric["mAP"]] * (symmetric["queries"] - symmetric["skipped"])
    content["scores"]["average_precision"] = [None] * symmetric["skipped"] + counted
    return Record.model_validate(content)
