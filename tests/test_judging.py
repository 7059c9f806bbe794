"""`benchmark evaluate` and `benchmark inspect`: judging and looking at what is trained."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.results.record import Record


@pytest.fixture
def ask(command_line, data_root):
    """`ask("evaluate", ...)` runs the command line here: its exit code, and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return command_line(*arguments, "--device", "cpu", "--data-root", data_root)

    return run


@pytest.fixture
def embeddings(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(6, 8))
    arrays = {}
    for name, count in (("query", 20), ("gallery", 60)):
        ids = generator.integers(6, size=count)
        arrays |= {
            name: (centres[ids] + generator.normal(size=(count, 8))).astype(np.float32),
            f"{name}_ids": ids,
            f"{name}_cams": generator.integers(1, 4, size=count),
        }
    np.savez(tmp_path / "some.npz", **arrays)
    return tmp_path / "some.npz"


def scores(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_run_is_scored_as_its_record_says(ask, student, tmp_path):
    code, out, _ = ask("evaluate", "--run", student, "--output", tmp_path / "scores.json")
    found = scores(tmp_path / "scores.json")
    recorded = Record.read(student / "record.json").scores.symmetric
    assert code == 0 and f"{100 * recorded.mAP:.2f}" in out
    assert found["scores"]["mAP"] == recorded.mAP
    assert found["scores"]["MAP@R"] == recorded.mAP_at_R
    assert {k: found["scores"][f"R@{k}"] for k in recorded.recall} == recorded.recall
    assert {k: found["scores"][f"P@{k}"] for k in recorded.precision} == recorded.precision
    assert all(len(values) == found["queries"] for values in found["per_query"].values())
    assert len(found["per_query"]) == 7
    precisions = found["per_query"]["average_precision"]
    assert len(precisions) == found["queries"] == recorded.queries
    assert np.nanmean(np.array(precisions, dtype=float)) == pytest.approx(recorded.mAP)


def test_a_run_is_scored_in_other_ways(ask, student, teacher, tmp_path):
    usual = Record.read(student / "record.json").scores.symmetric.mAP
    found = {}
    for name, options in {
        "flip": ["--flip"],
        "re-ranked": ["--set", "evaluate.reranking.k1=4", "--set", "evaluate.reranking.k2=2"],
        "expanded": ["--set", "evaluate.expansion.k=2"],
        "other data": ["--dataset", "glyphs", "--set", "dataset.test_identities=12"],
    }.items():
        code, _, err = ask("evaluate", "--run", student, "--output", tmp_path / "scores.json", *options)
        assert code == 0, err
        found[name] = scores(tmp_path / "scores.json")
        assert found[name]["scores"]["mAP"] != usual, name
    assert found["re-ranked"]["protocol"]["reranking"] == {"k1": 4, "k2": 2, "weight": 0.3}
    assert found["expanded"]["protocol"]["expansion"] == {"k": 2, "alpha": 0.0}


def test_several_processes_share_the_work(student, data_root, tmp_path):
    """Three of them, by which neither list divides."""
    found = {}
    for name, start in {"one": ["-m"], "three": ["-m", "torch.distributed.run", "--nproc-per-node=3", "-m"]}.items():
        line = [
            sys.executable,
            *start,
            "benchmark",
            *(["--"] if name == "three" else []),
            "evaluate",
            "--run",
            student,
            "--device",
            "cpu",
        ]
        options = ["--data-root", data_root, "--output", tmp_path / f"{name}.json"]
        done = subprocess.run(
            [*map(str, line + options)], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("mAP") == 1
        found[name] = scores(tmp_path / f"{name}.json")
    one, three = found["one"], found["three"]
    assert one["queries"] == three["queries"] and one["queries"] % 3
    # Batches of other sizes are embedded with other rounding; of the same embeddings the scores are the same.
    assert one["scores"] == pytest.approx(three["scores"], abs=2e-3)
    assert one["per_query"]["positives"] == three["per_query"]["positives"]


def test_the_teachers_gallery_is_searched(ask, student, teacher, tmp_path):
    """By a student of cdd that says nothing, which is said."""
    code, out, _ = ask("evaluate", "--run", student, "--gallery", "teacher", "--output", tmp_path / "scores.json")
    assert code == 0 and "cdd leaves the student's embeddings apart from the teacher's" in out
    assert (
        scores(tmp_path / "scores.json")["scores"]["mAP"] != Record.read(student / "record.json").scores.symmetric.mAP
    )
    code, _, err = ask("evaluate", "--run", teacher, "--gallery", "teacher")
    assert code == 2 and "is the run of a teacher, which has no teacher itself" in err


def test_embeddings_from_elsewhere(ask, embeddings, tmp_path):
    code, out, err = ask(
        "evaluate", "--embeddings", embeddings, "--protocol", "market1501", "--output", tmp_path / "s.json"
    )
    assert code == 0, err
    assert "some.npz by the protocol of market1501" in out and re.search(r"mAP +\d", out)
    found = scores(tmp_path / "s.json")
    assert found["protocol"]["junk"] == [-1] and found["queries"] == 20
    arrays = dict(np.load(embeddings))
    arrays["gallery_ids"][:30] = -1
    np.savez(embeddings, **arrays)
    ask("evaluate", "--embeddings", embeddings, "--protocol", "market1501", "--output", tmp_path / "junk.json")
    assert sum(scores(tmp_path / "junk.json")["per_query"]["positives"]) < sum(found["per_query"]["positives"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"query_ids": None}, ["--protocol", "market1501"], "there is no array 'query_ids'; did you mean 'query'?"),
        ({"gallery_cams": None}, ["--protocol", "market1501"], "there is no array 'gallery_cams'"),
        (
            {"query_ids": np.zeros(3)},
            ["--protocol", "market1501"],
            r"some.npz: query: identities must be",
        ),
        ({"query": np.ones((20, 7))}, ["--protocol", "market1501"], "differ in size: 7 and 8"),
        ({}, [], r"by which rules\? Give --protocol DATASET"),
        ({}, ["--protocol", "market1510"], "did you mean 'market1501'"),
        ({}, ["--protocol", "market1501", "--flip"], "--dataset, --gallery and --flip are for --run"),
        ({}, ["--protocol", "market1501", "--set", "evaluate.reranking.k3=1"], "k3"),
        ({}, ["--protocol", "market1501", "--set", "evaluate.reranking.k1=0"], "k1 must be at least 1"),
        ({}, ["--protocol", "market1501", "--set", "evaluate.tie=optimistic"], "evaluate.tie"),
        ({}, ["--protocol", "cub200"], "holds 'gallery', but by the protocol of cub200 query and gallery are one list"),
        ({}, ["--protocol", "cub200", "--set", "evaluate.reranking.k1=4"], "reranking and query_in_gallery exclude"),
    ],
)
def test_embeddings_that_cannot_be_judged(ask, embeddings, change, options, message):
    arrays = dict(np.load(embeddings)) | change
    np.savez(embeddings, **{name: array for name, array in arrays.items() if array is not None})
    code, _, err = ask("evaluate", "--embeddings", embeddings, *options)
    assert code == 2 and re.search(message, err), err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive at all"])
def test_a_damaged_file_of_embeddings(ask, tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    code, _, err = ask("evaluate", "--embeddings", tmp_path / "bad.npz", "--protocol", "market1501")
    assert code == 2 and "is not a readable .npz file" in err


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_file_of_embeddings_damaged_anywhere_is_judged_or_refused(ask, embeddings, tmp_path, place, noise):
    np.savez_compressed(tmp_path / "whole.npz", **np.load(embeddings))
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    place %= len(content)
    content[place : place + len(noise)] = noise
    (tmp_path / "damaged.npz").write_bytes(content)
    code, _, err = ask("evaluate", "--embeddings", tmp_path / "damaged.npz", "--protocol", "market1501")
    assert code in (0, 2) and "Traceback" not in err


def test_a_file_of_one_array(ask, tmp_path):
    np.save(tmp_path / "query.npy", np.ones((3, 4)))
    code, _, err = ask("evaluate", "--embeddings", tmp_path / "query.npy", "--protocol", "market1501")
    assert code == 2 and "holds one array: write several into a .npz file with numpy.savez" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "what is to be judged"),
        (["--run", "RUN", "--embeddings", "x.npz"], "what is to be judged"),
        (["--run", "RUN", "--protocol", "glyphs"], "--protocol is for --embeddings"),
        (["--run", "RUN", "--gallery", "teachers"], "did you mean 'teacher'"),
        (["--run", "RUN", "--dataset", "glyph"], "did you mean 'glyphs'"),
        (["--run", "nowhere"], "nowhere is not the folder of a run: it has no recipe.yaml"),
    ],
)
def test_what_cannot_be_judged(ask, student, options, message):
    code, _, err = ask("evaluate", *(str(student) if option == "RUN" else option for option in options))
    assert code == 2 and message in err


def test_an_unfinished_run(ask, student, tmp_path):
    (tmp_path / "recipe.yaml").write_text((student / "recipe.yaml").read_text())
    for command in (["evaluate", "--run", tmp_path], ["inspect", tmp_path]):
        code, _, err = ask(*command)
        assert code == 2 and "has an unfinished run: it has no student.pt" in err


def test_a_teacher_that_is_gone(ask, student, tmp_path):
    alone = tmp_path / "runs" / "glyphs" / "cdd" / student.name
    alone.mkdir(parents=True)
    for name in ("recipe.yaml", "student.pt"):
        (alone / name).write_bytes((student / name).read_bytes())
    code, _, err = ask("inspect", alone)
    assert code == 2 and re.search(r"the teacher of .* is missing: there is no .*teacher/seed0", err)


def test_a_page_of_the_worst_queries(ask, student, teacher, tmp_path):
    code, out, err = ask("inspect", student, "--worst", 3, "--output", tmp_path / "look" / "page.html")
    assert code == 0, err
    page = (tmp_path / "look" / "page.html").read_text()
    assert "cdd on glyphs" in page and "teacher" in page
    with Image.open(tmp_path / "look" / "page.png") as sheet:
        assert sheet.width > 400
    assert out.split() == [str(tmp_path / "look" / "page.html"), str(tmp_path / "look" / "page.png")]
    assert ask("inspect", teacher, "--worst", 3, "--output", tmp_path / "teacher.html")[0] == 0
    assert "teacher on glyphs" in (tmp_path / "teacher.html").read_text()


def test_a_page_of_another_name(ask, student):
    code, _, err = ask("inspect", student, "--output", "page.txt")
    assert code == 2 and "the name of the page must end in .html" in err
