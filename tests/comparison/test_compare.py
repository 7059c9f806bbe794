"""`benchmark compare`: its tables and the runs that it rejects."""

import re
from pathlib import Path

import pytest

from benchmark.comparison import open_runs
from benchmark.errors import UserError
from benchmark.results.record import Record


def cells(printed: str) -> dict[str, list[str]]:
    """The cells of printed tables by the first cell of their row."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    return {row[0]: row[1:] for row in lines if len(row) > 1}


def unwrapped(printed: str) -> str:
    """The printed text on one line: a caption is wrapped at the width of its table."""
    return " ".join(printed.split())


def test_results(run, compare):
    timing = {"train_seconds": 90.0, "evaluate_seconds": 1.0}
    code, out, _ = compare(run("none", macs=30e6), run("kd", [0.5, 0.9], macs=15e6, timing=timing))
    assert code == 0
    table = cells(out)
    assert table["dataset"] == ["glyphs", "glyphs"] and table["method"] == ["none", "kd"]
    assert table["seed"] == ["0", "0"]
    assert table["mAP"] == ["50.0", "70.0"] and table["R@1"] == ["60.0", "80.0"]
    assert table["parameters"] == ["1.50 M", "750 k"] and table["MACs"] == ["30.0 M", "15.0 M"]
    assert table["saved"] == ["50.0 / 50.0", "75.0 / 75.0"]
    assert table["latency"] == ["3.00 / 150", "1.50 / 75.0"] and table["training"] == ["3.3", "1.5"]
    assert "latency in ms for a batch of 1 / 64 on cpu, 2 threads" in unwrapped(out)
    assert out.splitlines()[-1] == "compare.svg" and Path("compare.svg").is_file()


def test_teacher_has_no_savings(run, compare):
    _, out, _ = compare(run("kd"), run("none", role="teacher"))
    assert cells(out)["method"] == ["kd", "teacher"]
    assert cells(out)["saved"][1] == "-"


def test_latencies_of_different_devices_are_not_comparable(run, record, compare):
    network = record().model_dump(mode="json")["network"]
    network["cost"] |= {"device": "another [cpu]"}
    _, out, _ = compare(run("kd"), run("none", network=network))
    assert "not comparable: kd on cpu, 2 threads; none on another [cpu], 2 threads" in unwrapped(out)


def test_gains_over_the_first_run(run, compare):
    """The second query is skipped: it has no correct match."""
    first = run("none", [0.5, None] + [0.5] * 40)
    better = run("kd", [0.6, None] + [0.6] * 40)
    mixed = run("rkd", [0.5, None] + [0.7, 0.3] * 20)
    code, out, _ = compare(first, better, mixed)
    table = cells(out)
    assert code == 0
    assert table["mAP gain over none"][:2] == ["-", "+10.0 [+10.0, +10.0]"]
    assert re.fullmatch(r"≈ [+-]0\.0 \[-\d\.\d, \+\d\.\d\]", table["mAP gain over none"][2])
    assert table["queries improved"] == ["-", "41", "20"]
    assert table["queries degraded"] == ["-", "0", "20"]
    assert table["queries unchanged"] == ["-", "0", "1"]
    assert "95 % interval of a paired bootstrap" in unwrapped(out)


def test_recipe_differences(run, compare):
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
    assert cells(out.partition("recipes")[2]) == {
        "key": ["none", "kd"],
        "image_size": ["-", "[32, 32]"],
        "method.name": ["none", "kd"],
        "method.weight": ["-", "1.5"],
        "runtime.workers": ["2", "null"],
        "train.optimizer.lr": ["0.1", "0.2"],
    }


def test_teacher_section_is_ignored_for_a_teacher(run, compare):
    student = {"method": {"name": "none"}, "teacher": {"seed": 3, "train": {"epochs": 4}}}
    unused = {"method": {"name": "none"}, "teacher": {"seed": 3, "train": {"epochs": 120}}}
    _, out, _ = compare(run("none", recipe=student), run("none", role="teacher", recipe=unused))
    assert "the recipes are identical" in out
    other = student | {"teacher": {"seed": 4, "train": {"epochs": 4}}}
    folders = run("none", recipe=student), run("kd", recipe=other), run("none", role="teacher", recipe=unused)
    _, out, _ = compare(*folders)
    assert cells(out.partition("recipes")[2]) == {"key": ["none", "kd", "teacher"], "teacher.seed": ["3", "4", "-"]}


def test_names_are_unique(run):
    zero, one, elsewhere, none = run("kd"), run("kd", seed=1), run("kd", work_dir="elsewhere"), run("none")
    assert zero.name == elsewhere.name
    assert list(open_runs([zero, none])) == ["kd", "none"]
    assert list(open_runs([zero, one, none])) == [f"kd {zero.name}", f"kd {one.name}", f"none {none.name}"]
    assert list(open_runs([zero, elsewhere])) == [str(zero), str(elsewhere)]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"dataset": "market1501"}, "kd was evaluated on market1501, none on glyphs"),
        ({"non_default": {"dataset.split": "closed"}}, "kd was evaluated on glyphs-closed, none on glyphs"),
        ({"average_precision": None}, "the record of kd is of an older version"),
        ({"average_precision": [0.5, 0.5, 0.5]}, "kd was trained or evaluated on other images than none"),
        ({"data": {"broken": 1}}, "kd was trained or evaluated on other images than none"),
    ],
)
def test_unpaired_queries(run, record, compare, other, reason):
    data = record().model_dump(mode="json")["data"] | other.get("data", {})
    unpaired = run("kd", **other | {"data": data})
    code, out, _ = compare(run("none"), unpaired)
    assert code == 0
    assert f"no per-query comparison of kd with none: {reason}" in out
    assert "queries improved" not in out and "bootstrap" not in out
    svg = Path("compare.svg").read_text()
    assert "Training loss" in svg and "AP gain" not in svg


def test_paired_and_unpaired_queries(run, compare):
    code, out, _ = compare(run("none"), run("kd", None), run("rkd", [0.5, 0.6]))
    assert code == 0 and "no per-query comparison of kd with none" in out
    table = cells(out)
    assert table["queries improved"] == table["queries unchanged"] == ["-", "-", "1"]


def test_old_record_of_the_first_run(run, compare):
    first = run("none", None)
    _, out, _ = compare(first, run("kd"))
    assert "the record of none is of an older version, without the average precision of every query" in out
    assert f"delete {first / 'record.json'}" in out


def test_rejects_fewer_than_two_runs(run, compare):
    code, _, err = compare(run("kd"))
    assert code == 2 and err.startswith("benchmark: a comparison needs at least two runs, not 1")


def test_rejects_links_in_a_circle(run, compare, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, _, err = compare(run("kd"), tmp_path / "loop")
    assert code == 2 and "loop: not a run folder" in err


def test_rejects_duplicate_run(run, compare):
    kd = run("kd")
    code, _, err = compare(kd, run("none"), kd / ".." / kd.name)
    assert code == 2 and f"the same run as {kd}; pass each folder once" in err
    assert not Path("compare.svg").exists()


@pytest.mark.parametrize(
    ("name", "problem", "remedy"),
    [
        ("recipe.yaml", "not a run folder", "pass the folder that `benchmark run` prints"),
        ("record.json", "not a finished run", "finish it with the same `benchmark run` command and --resume"),
        ("metrics.jsonl", "an incomplete run folder", "copy the whole folder"),
    ],
)
def test_rejects_folder_without_required_file(run, name, problem, remedy):
    folder = run("kd")
    (folder / name).unlink()
    with pytest.raises(UserError) as error:
        open_runs([run("none"), folder])
    message = str(error.value)
    assert message.startswith(f"{folder}: {problem}") and f"has no {name}; " in message and remedy in message


@pytest.mark.parametrize(
    ("line", "problem"), [("", ": no line has the key loss"), ("{", ", line 1: not the metrics of an epoch")]
)
def test_rejects_damaged_metrics(run, line, problem):
    folder = run("kd")
    (folder / "metrics.jsonl").write_text(line)
    with pytest.raises(UserError, match=re.escape(f"{folder / 'metrics.jsonl'}{problem}")):
        open_runs([run("none"), folder])


def test_rejects_other_plot_format(run, compare):
    code, _, err = compare(run("kd"), run("none"), "--output", "compare.pdf")
    assert code == 2 and "--output compare.pdf: the name of the plot must end in .svg or .png" in err


def test_student_and_teacher_of_a_real_run(student, teacher, compare):
    code, out, err = compare(teacher, student, "--output", "both.png")
    assert code == 0, err
    ours, theirs = (Record.read(folder / "record.json").scores for folder in (student, teacher))
    table = cells(out)
    assert table["mAP"] == [f"{100 * scores.symmetric.mAP:.1f}" for scores in (theirs, ours)]
    queries = sum(int(table[f"queries {change}"][1]) for change in ("improved", "degraded", "unchanged"))
    assert queries == ours.symmetric.queries - ours.symmetric.skipped
    gain = float(table["mAP gain over teacher"][1].removeprefix("≈ ").split()[0])
    assert gain == pytest.approx(100 * (ours.symmetric.mAP - theirs.symmetric.mAP), abs=0.051)
    assert table["method.name"] == ["none", "cdd"]
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")
