"""`benchmark compare`: what it prints of finished runs, and what it refuses."""

import re
from pathlib import Path

import pytest

from benchmark.comparison import open_runs
from benchmark.results.record import Record


def rows(printed: str) -> dict[str, list[str]]:
    """The rows of the tables that were printed, by their first cell."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) > 1}


def in_a_line(printed: str) -> str:
    """What is below a table is as narrow as the table."""
    return " ".join(printed.split())


def test_figures_stand_side_by_side(run, compare):
    timing = {"train_seconds": 90.0, "evaluate_seconds": 1.0}
    code, out, _ = compare(run("none", macs=30e6), run("kd", [0.5, 0.9], macs=15e6, timing=timing))
    assert code == 0
    found = rows(out)
    assert found["dataset"] == ["glyphs", "glyphs"] and found["method"] == ["none", "kd"]
    assert found["seed"] == ["0", "0"]
    assert found["mAP"] == ["50.0", "70.0"] and found["R@1"] == ["60.0", "80.0"]
    assert found["parameters"] == ["1.50 M", "750 k"] and found["MACs"] == ["30.0 M", "15.0 M"]
    assert found["saved"] == ["50.0 / 50.0", "75.0 / 75.0"]
    assert found["latency"] == ["3.00 / 150", "1.50 / 75.0"] and found["training"] == ["3.3", "1.5"]
    assert "latency in ms for a batch of 1 / 64 on cpu, 2 threads" in in_a_line(out)
    assert out.splitlines()[-1] == "compare.svg" and Path("compare.svg").is_file()


def test_a_teacher_has_saved_nothing(run, compare):
    _, out, _ = compare(run("kd"), run("none", role="teacher"))
    assert rows(out)["method"] == ["kd", "teacher"]
    assert rows(out)["saved"][1] == "-"


def test_latencies_of_different_devices_are_not_to_be_compared(run, record, compare):
    network = record().model_dump(mode="json")["network"]
    network["cost"] |= {"device": "another [cpu]"}
    _, out, _ = compare(run("kd"), run("none", network=network))
    assert "not comparable: kd on cpu, 2 threads; none on another [cpu], 2 threads" in in_a_line(out)


def test_queries_are_compared_with_the_first_run(run, compare):
    """A query without a valid match, the second, does not count."""
    first = run("none", [0.5, None] + [0.5] * 40)
    better = run("kd", [0.6, None] + [0.6] * 40)
    mixed = run("rkd", [0.5, None] + [0.7, 0.3] * 20)
    code, out, _ = compare(first, better, mixed)
    found = rows(out)
    assert code == 0
    assert found["mAP against none"][:2] == ["-", "+10.0 [+10.0, +10.0]"]
    assert re.fullmatch(r"≈ [+-]0\.0 \[-\d\.\d, \+\d\.\d\]", found["mAP against none"][2])
    assert found["queries gained"] == ["-", "41", "20"]
    assert found["queries lost"] == ["-", "0", "20"]
    assert found["queries equal"] == ["-", "0", "1"]
    assert "95 % interval of a paired bootstrap" in in_a_line(out)


def test_the_recipes_keys_that_differ(run, compare):
    base = {"seed": 0, "train": {"optimizer": {"lr": 0.1, "type": "sgd"}, "sampler": {"images": 4}}}
    new = {
        "seed": 0,
        "train": {"optimizer": {"lr": 0.2, "type": "sgd"}, "sampler": {"images": 4, "views": 1}},
        "image_size": [32, 32],
        "runtime": {"workers": None},
    }
    _, out, _ = compare(
        run("none", recipe=base | {"method": {"name": "none"}, "runtime": {"workers": 2}}),
        run("kd", recipe=new | {"method": {"name": "kd", "weight": 1.5}}),
    )
    assert rows(out.partition("recipes")[2]) == {
        "key": ["none", "kd"],
        "image_size": ["-", "[32, 32]"],
        "method.name": ["none", "kd"],
        "method.weight": ["-", "1.5"],
        "runtime.workers": ["2", "null"],
        "train.optimizer.lr": ["0.1", "0.2"],
    }


def test_a_teachers_recipe_has_no_teacher(run, compare):
    student = {"method": {"name": "none"}, "teacher": {"seed": 3, "train": {"epochs": 4}}}
    unused = {"method": {"name": "none"}, "teacher": {"seed": 3, "train": {"epochs": 120}}}
    _, out, _ = compare(run("none", recipe=student), run("none", role="teacher", recipe=unused))
    assert "the recipes are the same" in out
    other = student | {"teacher": {"seed": 4, "train": {"epochs": 4}}}
    folders = run("none", recipe=student), run("kd", recipe=other), run("none", role="teacher", recipe=unused)
    _, out, _ = compare(*folders)
    assert rows(out.partition("recipes")[2]) == {"key": ["none", "kd", "teacher"], "teacher.seed": ["3", "4", "-"]}


def test_names_tell_the_runs_apart(run):
    zero, one, elsewhere, none = run("kd"), run("kd", seed=1), run("kd", work="elsewhere"), run("none")
    assert zero.name == elsewhere.name
    assert list(open_runs([zero, none])) == ["kd", "none"]
    assert list(open_runs([zero, one, none])) == [f"kd {zero.name}", f"kd {one.name}", f"none {none.name}"]
    assert list(open_runs([zero, elsewhere])) == [str(zero), str(elsewhere)]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"dataset": "market1501"}, "it was judged on market1501, none on glyphs"),
        ({"non_default": {"dataset.split": "closed"}}, "it was judged on glyphs-closed, none on glyphs"),
        ({"precisions": None}, "the record of kd is an old one, which lacks the average precision of every query"),
        ({"precisions": [0.5, 0.5, 0.5]}, "it did not see the same images as none"),
        ({"data": {"broken": 1}}, "it did not see the same images as none"),
    ],
)
def test_why_queries_are_not_compared(run, record, compare, other, why):
    data = record().model_dump(mode="json")["data"] | other.get("data", {})
    odd = run("kd", **other | {"data": data})
    code, out, _ = compare(run("none"), odd)
    assert code == 0
    assert f"kd is not compared with none query by query: {why}" in out
    assert "queries gained" not in out and "bootstrap" not in out
    svg = Path("compare.svg").read_text()
    assert "Loss" in svg and "Average precision" not in svg
    code, out, _ = compare(run("none"), odd, run("rkd", [0.5, 0.6]))
    assert code == 0 and why in out
    assert [rows(out)[name] for name in ("queries gained", "queries equal")] == [["-", "-", "1"], ["-", "-", "1"]]


def test_an_old_first_record_says_how_it_is_judged_again(run, compare):
    first = run("none", None)
    _, out, _ = compare(first, run("kd"))
    assert f"the record of none is an old one, which lacks the average precision of every query; delete {first}" in out


def test_fewer_than_two_runs_are_refused(run, compare):
    code, _, err = compare(run("kd"))
    assert code == 2 and err.startswith("benchmark: a comparison is of two runs or more")


def test_a_run_twice_is_refused(run, compare):
    kd = run("kd")
    code, _, err = compare(kd, run("none"), kd / ".." / kd.name)
    assert code == 2 and f"is the same run as {kd}: name each folder once" in err
    assert not Path("compare.svg").exists()


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("recipe.yaml", "is no run's folder", "`benchmark run` ends with the folder to name here"),
        ("record.json", "holds no run that is finished", "`benchmark run` that began it, with --resume, finishes it"),
        ("metrics.jsonl", "holds a part of a run", "Copy the whole folder"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(run, compare, name, what, remedy):
    folder = run("kd")
    (folder / name).unlink()
    code, out, err = compare(run("none"), folder)
    assert (code, out) == (2, "")
    assert f"{folder} {what}" in err and f"it has no {name}. " in err and remedy in err


@pytest.mark.parametrize("line", ["", "{", "3", '{"loss": 1.0}', '{"epoch": 1}', "\xff"])
def test_damaged_metrics_are_refused(run, compare, line):
    folder = run("kd")
    (folder / "metrics.jsonl").write_bytes(line.encode("latin-1"))
    code, _, err = compare(run("none"), folder)
    assert code == 2 and f"benchmark: {folder / 'metrics.jsonl'} is damaged: " in err


@pytest.mark.parametrize("key", ["epoch", "loss", "mAP", "macs"])
@pytest.mark.parametrize("value", ["four", None, True, [4.0]])
def test_metrics_that_are_no_numbers_are_refused(run, compare, key, value):
    folder = run(
        "kd", metrics=[{"epoch": 0, "macs": 1e6}, {"epoch": 1, "loss": 8.0, "mAP": 0.5, "macs": 1} | {key: value}]
    )
    code, _, err = compare(run("none"), folder)
    assert code == 2
    assert f"{folder / 'metrics.jsonl'} is damaged: line 2: {key} is {value!r} and not a number" in err


def test_a_picture_is_an_svg_or_a_png(run, compare):
    folders = run("kd"), run("none")
    code, _, err = compare(*folders, "--output", "compare.pdf")
    assert code == 2 and "--output compare.pdf: the picture's name ends in .svg or .png" in err


def test_a_student_and_its_teacher(student, teacher, compare):
    """Of a real run."""
    code, out, err = compare(teacher, student, "--output", "both.png")
    assert code == 0, err
    ours, theirs = (Record.read(folder / "record.json").scores for folder in (student, teacher))
    found = rows(out)
    assert found["mAP"] == [f"{100 * each.symmetric.mAP:.1f}" for each in (theirs, ours)]
    counted = ours.symmetric.queries - ours.symmetric.skipped
    assert sum(int(found[f"queries {what}"][1]) for what in ("gained", "lost", "equal")) == counted
    gain = float(found["mAP against teacher"][1].removeprefix("≈ ").split()[0])
    assert gain == pytest.approx(100 * (ours.symmetric.mAP - theirs.symmetric.mAP), abs=0.051)
    assert found["method.name"] == ["none", "cdd"]
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")
