import io

from rich.console import Console

from benchmark.results.console import result_table


def render(record, width=80):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(result_table(record))
    return console.export_text()


def test_teacher_and_student_fit_in_80_columns(record):
    text = render(record(macs=22e6))
    words = [" ".join(line.split()) for line in text.splitlines()]
    assert "teacher 73.5 83.5 93.5 3.00 M 60.0 M 120 M - 6.00 / 300" in words
    assert "student 72.0 82.0 92.0 1.10 M 22.0 M 44.0 M 63.3 / 63.3 2.20 / 110" in words
    assert "cpu, 2 threads" in text


def test_a_teacher_alone(record):
    text = render(record("none", role="teacher"))
    assert "teacher" in text
    assert "student" not in text


def test_the_ceiling_is_stated(record):
    saved = {"parameters": 0.63, "macs": 0.61, "ceiling_parameters": 0.71, "ceiling_macs": 0.68}
    assert "at most 71.0 / 68.0 % can be saved" in render(record(saved=saved))


def test_brackets_in_names_are_shown(record):
    network = record().model_dump()["network"] | {"name": "resnet26 [32, 64]"}
    assert "student: resnet26 [32, 64]" in render(record(network=network))


def test_a_missed_budget_is_said_plainly(record):
    missed = {"kind": "macs", "target": 0.42, "reached": 0.9, "met": False}
    assert "budget missed: 90.0 % of the teacher's macs, 42.0 % were asked for" in render(record(budget=missed))
    assert "budget" not in render(record(budget=missed | {"reached": 0.4, "met": True}))


def test_skipped_queries_are_counted(record):
    scores = record().scores.symmetric.model_copy(update={"queries": 10, "skipped": 3})
    content = record().model_dump(mode="json")["scores"] | {"symmetric": scores.model_dump(mode="json")}
    assert "3 of 10 queries have no valid match and do not count" in render(record(scores=content))
