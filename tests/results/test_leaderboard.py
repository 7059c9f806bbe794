"""The files of the leaderboards: which are written, compared and removed, by several processes and despite kills."""

import gc
import os
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
from benchmark.results.store import add_record

REPORTED = """
dataset: glyphs
results: [{method: kd, teacher: big, student: small, figures: {mAP: 61}, protocol: theirs, source: one}]
"""
STEPS = """
{"dataset": "glyphs", "device": "cpu", "threads": 1, "torch": "2.9.0", "batch": 96, "rounds": 9,
 "ratios": {"none": 1.0, "kd": 1.5}}
"""


@pytest.fixture
def folder(record, tmp_path):
    """Records of a teacher and of two methods on glyphs, and of one run on veri776."""
    records = [record("none", role="teacher", mAP=0.735, macs=60e6), record("kd", dataset="veri776", macs=1.8e9)]
    records += [record(method, seed=seed, mAP=0.6 + seed / 100) for method in ("none", "kd") for seed in range(2)]
    for each in records:
        add_record(each, tmp_path / "records")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(paths):
    return {path.name for path in paths}


def test_writes_pages_plots_and_exports(folder):
    written = generate(folder)
    pages = {"README.md", "glyphs.md", "glyphs.svg", "veri776.md", "veri776.svg"}
    assert names(written) == pages | {"leaderboard.csv", "leaderboard.html"}
    assert {path for path in folder.iterdir() if path.is_file()} == set(written)


def test_links_lead_to_files(folder):
    generate(folder)
    for page in (*folder.glob("*.md"), *folder.glob("*.html")):
        for link in re.findall(r"\]\(([^)#]+)|href=\"([^\"#]+)", page.read_text()):
            assert (folder / "".join(link)).is_file(), link


def test_is_deterministic(folder):
    generate(folder)
    before = contents(folder)
    generate(folder)
    assert contents(folder) == before
    assert differing(folder) == []


def test_garbage_is_collected_afterwards(folder):
    (folder / "records" / "foreign.json").write_text("{")
    with pytest.raises(UserError, match=r"foreign\.json"):
        generate(folder)
    assert gc.isenabled()


def test_without_records(tmp_path):
    assert generate(tmp_path) == [tmp_path / "README.md"]


def test_includes_step_costs_and_published_results(folder):
    for name, text in (("steps/glyphs.json", STEPS), ("reported/glyphs.yaml", REPORTED)):
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    assert "reported.md" in names(generate(folder))
    page = (folder / "glyphs.md").read_text()
    assert "| x 1.50 " in page and "## Reported elsewhere" in page
    assert "training step" not in (folder / "veri776.md").read_text().partition("|")[2].partition("\n\n")[0]
    assert differing(folder) == []
    (folder / "reported" / "glyphs.yaml").write_text(REPORTED.replace("61", "62"))
    assert names(differing(folder)) == {"glyphs.md", "reported.md", "leaderboard.html"}
    (folder / "steps" / "glyphs.json").write_text("[]")
    with pytest.raises(UserError, match=r"glyphs\.json: not a file of step costs"):
        generate(folder)


def test_finds_files_that_do_not_match_the_records(folder, record):
    generate(folder)
    (folder / "glyphs.md").write_text("edited")
    (folder / "veri776.svg").unlink()
    assert names(differing(folder)) == {"glyphs.md", "veri776.svg"}
    generate(folder)
    (folder / "glyphs.md").write_bytes((folder / "glyphs.md").read_bytes() + b"\xff")
    (folder / "glyphs.svg").write_text((folder / "glyphs.svg").read_text()[:-9])
    (folder / "veri776.svg").write_text("<html/>")
    assert names(differing(folder)) == {"glyphs.md", "glyphs.svg", "veri776.svg"}
    generate(folder)
    add_record(record("pkt"), folder / "records")
    assert names(differing(folder)) == {"README.md", "glyphs.md", "leaderboard.csv", "leaderboard.html"}


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (r"base64,[^\"]*", "base64,AAAA", False),  # the bytes of a plot depend on the version of matplotlib
        ("61.0", "63.0", True),
        ('<img src="', '<img onerror="alert(1)" src="', True),
        ("base64,", 'base64,"><script>alert(1)</script>', True),
        ('alt="mAP against MACs', 'alt="something else', True),
    ],
)
def test_compares_the_web_page_without_its_plots(folder, record, before, after, differs):
    add_record(record("rkd", mAP=0.61), folder / "records")
    generate(folder)
    path = folder / "leaderboard.html"
    page, edited = path.read_text(), re.sub(before, after, path.read_text(), count=0 if not differs else 1)
    assert page != edited
    path.write_text(edited)
    assert differing(folder) == ([path] if differs else [])


def test_removes_generated_pages_whose_records_are_gone(folder):
    (folder / "reported").mkdir()
    (folder / "reported" / "glyphs.yaml").write_text(REPORTED)
    generate(folder)
    (folder / "reported" / "glyphs.yaml").unlink()
    for path in (folder / "records").glob("veri776-*"):
        path.unlink()
    notes = [folder / "veri776-notes.md", folder / "notes.svg"]
    for path in notes:
        path.write_text(f"# Notes\n\nPages begin with\n{GENERATED}\n")
    stale = {"veri776.md", "veri776.svg", "reported.md"}
    assert stale <= names(differing(folder))
    assert not stale & names(generate(folder))
    assert not any((folder / name).exists() for name in stale)
    assert all(path.exists() for path in notes)
    assert differing(folder) == []


@pytest.mark.parametrize("file", ["records/bad.json", "reported/glyphs.yaml"])
def test_an_invalid_file_leaves_the_pages_unchanged(folder, file):
    generate(folder)
    before = contents(folder)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("{}")
    with pytest.raises(UserError, match=re.escape(file)):
        generate(folder)
    assert contents(folder).items() >= before.items()


def test_check_of_a_folder_that_is_read_only(folder, monkeypatch):
    generate(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write anywhere
    (folder / "records" / ".lock").unlink()
    assert differing(folder) == []
    assert not (folder / "records" / ".lock").exists()


def test_check_waits_for_a_writing_process(folder):
    generate(folder)
    page = folder / "glyphs.md"
    complete = page.read_text()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(folder / "records" / ".lock"):
            page.write_text("half")
            check = pool.submit(differing, folder)
            with pytest.raises(TimeoutError):
                check.result(timeout=0.5)
            page.write_text(complete)
        assert check.result() == []


@pytest.mark.parametrize("work", [differing, generate])
def test_rejects_a_folder_that_cannot_be_locked(folder, work):
    (folder / "records" / ".lock").mkdir()
    with pytest.raises(UserError, match=r"records/\.lock: cannot be locked"):
        work(folder)


ADD = """
import sys
from pathlib import Path
from benchmark.results.leaderboard import generate
from benchmark.results.record import Record
from benchmark.results.store import add_record
folder = Path(sys.argv[1])
for line in sys.stdin:
    add_record(Record.model_validate_json(line), folder / "records")
    generate(folder)
"""


@pytest.mark.slow
def test_concurrent_processes_lose_no_record(folder, record):
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD, str(folder)], stdin=subprocess.PIPE, text=True) for _ in range(5)
    ]
    for number, process in enumerate(processes):
        lines = [record(f"method{number}", seed=seed).model_dump_json() for seed in range(3)]
        process.stdin.write("\n".join(lines) + "\n")
        process.stdin.close()
    assert [process.wait(timeout=240) for process in processes] == [0] * 5
    assert differing(folder) == []
    page = (folder / "glyphs.md").read_text()
    assert all(f"method{number}" in page for number in range(5))
    assert len(list((folder / "records").glob("*.json"))) == 6 + 15


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


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "glyphs.md"])
def test_a_kill_while_writing_keeps_the_old_page(folder, record, page):
    generate(folder)
    before = contents(folder)
    add_record(record("pkt"), folder / "records")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), page], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (folder / page).read_bytes() == before[folder / page]
    (half,) = folder.glob(f".{page}.*")
    assert differing(folder) != []

    kept = {path: content for path, content in contents(folder).items() if path.parent != folder}
    generate(folder)
    assert not half.exists() and differing(folder) == []
    assert "`pkt`" in (folder / "glyphs.md").read_text()
    assert contents(folder).items() >= kept.items()
    assert contents(folder).keys() == before.keys() | kept.keys()


def test_tables_and_plots_import_neither_torch_nor_matplotlib():
    modules = "record store rows comparison format columns board markdown html export frontier leaderboard reported"
    modules += " step_costs console reproduction consistency"
    code = (
        "import sys, importlib, benchmark.plots.compression\n"
        f"for name in {modules.split()}: importlib.import_module('benchmark.results.' + name)\n"
        "assert not {'torch', 'matplotlib', 'mmengine'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
