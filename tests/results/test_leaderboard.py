import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from benchmark.errors import UserError
from benchmark.results.leaderboard import differing, generate
from benchmark.results.markdown import GENERATED
from benchmark.results.record import Record
from benchmark.results.step_costs import StepCosts
from benchmark.results.store import add_record

BUDGET = {"kind": "macs", "target": 0.35, "reached": 0.383, "met": False}
CEILINGS = {"parameters": 0.63, "macs": 0.61, "ceiling_parameters": 0.71, "ceiling_macs": 0.68}


@pytest.fixture
def folder(record, tmp_path):
    """A teacher, and three seeds of four methods on glyphs; one run on veri776."""
    records = [record("none", role="teacher", mAP=0.735, macs=60e6), record("kd", dataset="veri776", macs=1.8e9)]
    for seed in range(3):
        records += [record(method, seed=seed, mAP=0.6 + seed / 100) for method in ("none", "kd", "rkd")]
        records.append(record("cdd", seed=seed, mAP=0.72, asymmetric=0.6, budget=BUDGET, saved=CEILINGS))
    for each in records:
        add_record(each, tmp_path / "records")
    return tmp_path


def rows(page):
    """The cells of the page's first table, without the header."""
    table = next(part for part in page.split("\n\n") if part.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written(folder):
    written = generate(folder)
    formats = {"leaderboard.csv", "leaderboard.json", "leaderboard.html"}
    pages = {"README.md", "glyphs.md", "glyphs.svg", "veri776.md", "veri776.svg"}
    assert {path.name for path in written} == pages | formats
    assert {path for path in folder.iterdir() if path.is_file()} == set(written)


def test_regenerating_changes_nothing(folder):
    generate(folder)
    before = contents(folder)
    generate(folder)
    assert contents(folder) == before


def test_pages_are_checked_against_the_records(folder, record):
    generate(folder)
    assert differing(folder) == []
    (folder / "glyphs.md").write_text("edited")
    (folder / "veri776.svg").unlink()
    assert {path.name for path in differing(folder)} == {"glyphs.md", "veri776.svg"}
    generate(folder)
    (folder / "glyphs.md").write_bytes((folder / "glyphs.md").read_bytes() + b"\xff")
    (folder / "glyphs.svg").write_text((folder / "glyphs.svg").read_text()[:-9])
    (folder / "veri776.svg").write_text("<html/>")
    assert {path.name for path in differing(folder)} == {"glyphs.md", "glyphs.svg", "veri776.svg"}
    generate(folder)
    add_record(record("pkt"), folder / "records")
    assert {path.name for path in differing(folder)} == {
        *("README.md", "glyphs.md", "leaderboard.csv", "leaderboard.json", "leaderboard.html")
    }


def test_pages_without_records_are_found_and_removed(folder):
    (folder / "reported").mkdir()
    reported = folder / "reported" / "glyphs.yaml"
    reported.write_text(
        "dataset: glyphs\n"
        "results: [{method: kd, teacher: big, student: small, figures: {mAP: 61}, protocol: theirs, source: one}]\n"
    )
    generate(folder)
    reported.unlink()
    for path in (folder / "records").glob("veri776-*"):
        path.unlink()
    mine = [folder / "veri776-notes.md", folder / "notes.svg"]
    for path in mine:
        path.write_text(f"# Notes\n\nPages begin with\n{GENERATED}\n")
    stale = {"veri776.md", "veri776.svg", "reported.md"}
    assert stale <= {path.name for path in differing(folder)}
    assert not stale & {path.name for path in generate(folder)}
    assert not any((folder / name).exists() for name in stale)
    assert all(path.exists() for path in mine)
    assert differing(folder) == []


def test_a_check_waits_for_those_who_write(folder):
    generate(folder)
    page = folder / "glyphs.md"
    whole = page.read_text()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(folder / "records" / ".lock"):
            page.write_text("half")
            found = pool.submit(differing, folder)
            with pytest.raises(TimeoutError):
                found.result(timeout=0.5)
            page.write_text(whole)
        assert found.result() == []


def test_a_folder_that_cannot_be_locked_is_refused(folder):
    (folder / "records" / ".lock").mkdir()
    for work in (differing, generate):
        with pytest.raises(UserError, match=r"records/\.lock: cannot be locked"):
            work(folder)


ADD = """
import json, sys
from pathlib import Path
from benchmark.results.leaderboard import differing, generate
from benchmark.results.record import Record
from benchmark.results.store import add_record
folder = Path(sys.argv[1])
for line in sys.stdin:
    add_record(Record.model_validate_json(line), folder / "records")
    generate(folder)
"""


def test_ten_processes_at_once_lose_nothing(folder, record, tmp_path):
    """The last page that is written holds every record, whoever writes it."""
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD, str(folder)], stdin=subprocess.PIPE, text=True) for _ in range(10)
    ]
    for number, process in enumerate(processes):
        lines = [record(f"method{number}", seed=seed).model_dump_json() for seed in range(3)]
        process.stdin.write("\n".join(lines) + "\n")
        process.stdin.close()
    assert [process.wait(timeout=240) for process in processes] == [0] * 10
    assert differing(folder) == []
    page = (folder / "glyphs.md").read_text()
    assert all(f"method{number}" in page for number in range(10))
    assert len(list((folder / "records").glob("*.json"))) == 14 + 30


def test_teacher_and_none_come_first(folder):
    generate(folder)
    for page in ("glyphs.md", "README.md"):
        methods = [cells[0] for cells in rows((folder / page).read_text())]
        assert methods[:2] == ["teacher", "`none`"]


def test_cells(folder):
    generate(folder)
    page = (folder / "glyphs.md").read_text()
    teacher, baseline = rows(page)[:2]
    assert teacher[1:6] == ["resnet26 64-128-256", "-", "73.5", "83.5", "93.5"]
    assert teacher[8:12] == ["3.00 M", "60.0 M", "120 M", "-"]
    assert baseline[1:6] == ["resnet26 64-128-256", "resnet26 32-64-128", "61.0 ± 1.0", "71.0 ± 1.0", "81.0 ± 1.0"]
    assert baseline[8:14] == ["1.10 M", "22.0 M", "44.0 M", "63.3 / 63.3", "2.20", "110"]


def test_links_lead_to_records(folder):
    generate(folder)
    for page in folder.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (folder / link).is_file(), link
    linked = re.findall(r"\((records/[^)]+)\)", (folder / "glyphs.md").read_text())
    assert len(linked) == len(set(linked)) == 13


def test_notes(folder):
    generate(folder)
    page = (folder / "glyphs.md").read_text()
    assert "1. No asymmetric mAP: embedding sizes differ (128 and 256)." in page
    assert "`cdd` missed its budget of 35.0 % of the teacher's MACs: 38.3 % with seed 0, 38.3 % with seed 1" in page
    assert "saved 63.0 % of at most 71.0 % of the parameters and 61.0 % of at most 68.0 % of the MACs" in page
    assert page.count("<sup>1</sup>") == 4  # teacher, none, kd, rkd


def test_every_row_says_how_its_first_record_is_reproduced(folder, record):
    """The second row of a method and the teacher's too."""
    add_record(record("kd", variant="longer", mAP=0.5), folder / "records")
    generate(folder)
    page = (folder / "glyphs.md").read_text()
    commands = re.findall(r"^benchmark reproduce leaderboards/(.*)$", page, flags=re.MULTILINE)
    first = [re.search(r"\((records/[^)]+)\)", cells[-1])[1] for cells in rows(page)]
    assert commands == first and len(set(commands)) == 6
    assert sum("-kd-" in command for command in commands) == 2
    assert "-teacher-seed0-" in commands[0]
    assert "today's default recipe is `benchmark run --method NAME --dataset glyphs --seed 0`." in page


def test_the_command_of_a_variant_sets_what_is_unusual(record, tmp_path):
    content = record("kd").model_dump(mode="json") | {"variant": {"dataset.split": "closed", "dataset.sizes": [1, 2]}}
    add_record(Record.model_validate(content), tmp_path / "records")
    generate(tmp_path)
    (page,) = tmp_path.glob("glyphs-*.md")
    assert "--dataset glyphs --set 'dataset.sizes=[1, 2]' --set dataset.split=closed --seed 0`" in page.read_text()


def test_devices_are_named_where_they_differ(record, folder):
    generate(folder)
    assert "Latency on cpu, 2 threads." in (folder / "glyphs.md").read_text()
    content = record("pkt").model_dump()
    content["network"]["cost"]["device"] = "cuda"
    add_record(type(record()).model_validate(content), folder / "records")
    generate(folder)
    page = (folder / "glyphs.md").read_text()
    assert "Latency measured on cpu, 2 threads." in page
    assert "Latency measured on cuda, 2 threads." in page


def test_different_data_are_pointed_out(record, folder):
    data = record().model_dump()["data"] | {"fingerprint": "e" * 64}
    add_record(record("pkt", data=data), folder / "records")
    generate(folder)
    assert "These records saw 2 different versions of the data" in (folder / "glyphs.md").read_text()


def test_rows_that_saw_different_data_are_apart(record, folder):
    data = record().model_dump()["data"]
    add_record(record("pkt", seed=0), folder / "records")
    add_record(record("pkt", seed=1, data=data | {"broken": 4}), folder / "records")
    generate(folder)
    assert [cells[0].split()[0] for cells in rows((folder / "glyphs.md").read_text())].count("`pkt`") == 2


def test_students_of_another_training_of_the_teacher_are_marked(record, folder):
    teacher = record("none", role="teacher", mAP=0.735, macs=60e6)
    for seed, mAP in enumerate((0.735, 0.71, 0.69, 0.71)):
        report = record("pkt", seed=seed).model_dump()["teacher"]
        report["record"] = teacher.id
        report["scores"]["mAP"] = mAP
        add_record(record("pkt", seed=seed, teacher=report), folder / "records")
    generate(folder)
    page = (folder / "glyphs.md").read_text()
    assert page.count("another training of this teacher's recipe") == 2
    assert "Seeds 1, 3: another training of this teacher's recipe, with 71.0 % mAP." in page
    assert "Seed 2: another training of this teacher's recipe, with 69.0 % mAP." in page


def test_what_a_step_costs_stands_beside(folder):
    generate(folder)
    assert "training step" not in (folder / "glyphs.md").read_text()
    ratios = {"none": 1.0, "kd": 1.5, "pkt": 9.0}
    facts = {"device": "cpu", "threads": 1, "torch": "2.9.0", "batch": 96, "rounds": 9}
    (folder / "steps").mkdir()
    StepCosts(dataset="glyphs", ratios=ratios, **facts).write(folder / "steps" / "glyphs.json")
    generate(folder)
    page = (folder / "glyphs.md").read_text()
    assert "Training steps of 96 images on cpu, 1 thread." in page
    shown = {cells[0].split()[0]: cells[-2] for cells in rows(page) if len(cells) > 10}
    assert shown == {"teacher": "-", "`none`": "x 1.00", "`kd`": "x 1.50", "`rkd`": "-", "`cdd`": "-"}
    (folder / "steps" / "glyphs.json").write_text("[]")
    with pytest.raises(UserError, match=r"glyphs\.json: not a file of step costs"):
        generate(folder)


def test_without_records(tmp_path):
    assert generate(tmp_path) == [tmp_path / "README.md"]
    assert "There are no records yet." in (tmp_path / "README.md").read_text()


def test_a_bad_record_leaves_the_pages_alone(folder):
    generate(folder)
    before = contents(folder)
    (folder / "records" / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json"):
        generate(folder)
    assert contents(folder).items() >= before.items()


KILLED = """
import os, signal, sys
from pathlib import Path
from benchmark.results.leaderboard import generate

def write_half(path, text, **_):
    path.write_bytes(text.encode()[: len(text) // 2])
    if path.name.startswith(f".{sys.argv[2]}"):
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_bytes(text.encode())

Path.write_text = write_half
generate(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("page", ["README.md", "glyphs.md"])
def test_a_kill_in_the_middle_of_a_page_leaves_the_old_one_whole(folder, record, page):
    generate(folder)
    before = contents(folder)
    add_record(record("pkt"), folder / "records")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), page], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (folder / page).read_bytes() == before[folder / page]
    (half,) = folder.glob(f".{page}.*")
    assert differing(folder) != []

    given = {path: content for path, content in contents(folder).items() if path.parent != folder or path == half}
    generate(folder)
    assert differing(folder) == []
    assert "`pkt`" in (folder / "glyphs.md").read_text()
    assert contents(folder).items() >= given.items()
    assert contents(folder).keys() == before.keys() | given.keys()


def test_results_import_neither_torch_nor_matplotlib():
    modules = [
        f"results.{name}"
        for name in ["record", "store", "rows", "leaderboard", "export", "html", "frontier", "console", "consistency"]
    ]
    modules.append("plots.compression")
    code = (
        f"import sys, importlib\nfor name in {modules}: importlib.import_module('benchmark.' + name)\n"
        "assert not {'torch', 'matplotlib', 'mmengine'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
