"""`benchmark evaluate`."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark import evaluation  # not TestSet, which pytest would take for a class of tests
from benchmark.results.record import Record

FORMATS = {"float32": 64, "float16": 32, "int8": 16, "binary": 2, "pq:4x4": 2, "matryoshka:8": 32}
"""Bytes of an embedding of 16 values."""


@pytest.fixture
def evaluate(command_line, data_root):
    """`evaluate("--run", folder)` runs `benchmark evaluate` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return command_line("evaluate", "--device", "cpu", "--data-root", data_root, *arguments)

    return run


@pytest.fixture
def scores_of(evaluate, tmp_path):
    """`scores_of("--run", folder)` runs the command successfully and returns the scores that it writes."""

    def run(*arguments: object) -> dict:
        output = tmp_path / "scores.json"
        code, _, err = evaluate(*arguments, "--output", output)
        assert code == 0, err
        return json.loads(output.read_text())

    return run


@pytest.fixture
def recorded(student):
    """Scores in the record of the finished run."""
    return Record.read(student / "record.json").scores.symmetric


def save_embeddings(path: Path, queries: int, images: int) -> Path:
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(6, 8))
    arrays = {}
    for name, count in (("query", queries), ("gallery", images)):
        identities = generator.integers(6, size=count)
        arrays |= {
            name: (centers[identities] + generator.normal(size=(count, 8))).astype(np.float32),
            f"{name}_ids": identities,
            f"{name}_cams": generator.integers(1, 4, size=count),
        }
    np.savez(path, **arrays)
    return path


@pytest.fixture
def embeddings(tmp_path) -> Path:
    return save_embeddings(tmp_path / "some.npz", 20, 60)


class TestRun:
    def test_scores_equal_the_record(self, evaluate, scores_of, student, recorded):
        code, out, _ = evaluate("--run", student)
        assert code == 0 and f"{100 * recorded.mAP:.2f}" in out
        written = scores_of("--run", student)
        assert written["scores"]["mAP"] == recorded.mAP
        assert written["scores"]["MAP@R"] == recorded.mAP_at_R
        assert {k: written["scores"][f"R@{k}"] for k in recorded.recall} == recorded.recall
        assert {k: written["scores"][f"P@{k}"] for k in recorded.precision} == recorded.precision
        assert len(written["per_query"]) == 7
        assert {len(values) for values in written["per_query"].values()} == {written["queries"]} == {recorded.queries}
        precisions = np.array(written["per_query"]["average_precision"], dtype=float)
        assert np.nanmean(precisions) == pytest.approx(recorded.mAP)

    @pytest.mark.parametrize(
        ("options", "protocol"),
        [
            (["--flip"], {}),
            (
                ["--set", "evaluate.reranking.k1=4", "--set", "evaluate.reranking.k2=2"],
                {"reranking": {"k1": 4, "k2": 2, "weight": 0.3}},
            ),
            (["--set", "evaluate.expansion.k=2"], {"expansion": {"k": 2, "alpha": 0.0}}),
        ],
        ids=["flip", "re-ranking", "expansion"],
    )
    def test_other_settings(self, scores_of, student, recorded, options: list[str], protocol: dict):
        written = scores_of("--run", student, *options)
        assert written["scores"]["mAP"] != recorded.mAP
        assert protocol.items() <= written["protocol"].items()

    def test_other_dataset(self, scores_of, student, recorded, tmp_path):
        other = ["--dataset", "glyphs", "--set", "dataset.test_identities=12", "--data-root", tmp_path / "data"]
        assert scores_of("--run", student, *other)["queries"] < recorded.queries

    def test_teacher_gallery(self, evaluate, scores_of, student, teacher, recorded):
        code, out, _ = evaluate("--run", student, "--gallery", "teacher")
        assert code == 0 and "cdd does not align the embedding spaces of student and teacher" in out
        assert scores_of("--run", student, "--gallery", "teacher")["scores"]["mAP"] != recorded.mAP
        code, _, err = evaluate("--run", teacher, "--gallery", "teacher")
        assert code == 2 and "is the run of a teacher, which has no teacher itself" in err

    def test_approximate_search(self, scores_of, student, recorded):
        written = scores_of("--run", student, "--index", "flat")
        approximate = written["approximate"]
        assert written["scores"]["mAP"] == recorded.mAP == pytest.approx(approximate["scores"]["mAP"], abs=1e-6)
        assert approximate["neighbor_recall"] == 1
        assert min(approximate["seconds"].values()) > 0

    @pytest.mark.parametrize("name", [*FORMATS, "pca:16"])
    def test_format_of_embeddings(self, scores_of, student, recorded, name: str):
        written = scores_of("--run", student, "--embedding", name)
        assert (written["embedding"], written["bytes_per_image"]) == (name, FORMATS.get(name, 64))
        limits = {"float32": 0, "float16": 1e-3, "int8": 0.01, "matryoshka:8": 0.5, "binary": 0.6, "pq:4x4": 0.6}
        assert abs(written["scores"]["mAP"] - recorded.mAP) <= limits.get(name, 0.1)

    def test_formats_in_one_table(self, evaluate, scores_of, student, recorded):
        options = ["--embedding", "float32,int8", "--embedding", "binary, int8", "--clustering"]
        code, out, _ = evaluate("--run", student, *options)
        assert code == 0 and re.search(r"embedding +bytes +mAP +R@1 +NMI +AMI", out)
        rows = re.findall(r"^ *(float32|int8|binary) +(\d+) +([\d.]+) +[\d.]+ +[\d.]+ +-?[\d.]+ *$", out, re.MULTILINE)
        assert [row[:2] for row in rows] == [("float32", "64"), ("int8", "16"), ("binary", "2")]
        assert rows[0][2] == f"{100 * recorded.mAP:.2f}"
        written = scores_of("--run", student, *options)["embeddings"]
        assert list(written) == ["float32", "int8", "binary"]
        assert written["float32"]["scores"]["mAP"] == recorded.mAP
        for content in written.values():
            assert len(content["per_query"]["average_precision"]) == recorded.queries
            assert 0 < content["clustering"]["AMI"] < content["clustering"]["NMI"] < 1

    def test_format_of_embeddings_as_a_setting(self, scores_of, student):
        setting = scores_of("--run", student, "--set", "evaluate.embedding=int8")
        assert setting == scores_of("--run", student, "--embedding", "int8")

    def test_format_is_learned_from_the_training_images_of_the_run(self, scores_of, student, monkeypatch):
        seen = []
        original = evaluation.TestSet.embed_training

        def embed_training(self, network):
            seen.append(original(self, network))
            return seen[-1]

        monkeypatch.setattr(evaluation.TestSet, "embed_training", embed_training)
        scores_of("--run", student, "--embedding", "int8")
        scores_of("--run", student, "--embedding", "int8", "--set", "dataset.test_identities=12")
        assert len(seen) == 2 and torch.equal(*seen)
        assert len(seen[0]) == Record.read(student / "record.json").data.splits["train"].images

    @pytest.mark.slow
    def test_several_processes(self, student, data_root, tmp_path):
        """Neither list can be divided evenly among three processes."""
        results = {}
        for name, launcher in {"one": [], "three": ["-m", "torch.distributed.run", "--nproc-per-node=3"]}.items():
            command = [sys.executable, *launcher, "-m", "benchmark", *(["--"] if launcher else []), "evaluate"]
            command += ["--run", student, "--device", "cpu", "--data-root", data_root]
            command += ["--output", tmp_path / f"{name}.json"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("mAP") == 1  # only the main process prints
            results[name] = json.loads((tmp_path / f"{name}.json").read_text())
        one, three = results["one"], results["three"]
        assert one["queries"] == three["queries"] and one["queries"] % 3
        # Batches of other sizes are embedded with other rounding errors.
        assert one["scores"] == pytest.approx(three["scores"], abs=2e-3)
        assert one["per_query"]["positives"] == three["per_query"]["positives"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "give either --run FOLDER or --embeddings FILE"),
            (["--run", "RUN", "--embeddings", "x.npz"], "give either --run FOLDER or --embeddings FILE"),
            (["--run", "RUN", "--protocol", "glyphs"], "--protocol glyphs: only for --embeddings"),
            (["--run", "RUN", "--gallery", "teachers"], "did you mean 'teacher'"),
            (["--run", "RUN", "--dataset", "glyph"], "did you mean 'glyphs'"),
            (["--run", "RUN", "--index", "hnws"], "--index hnws: choose flat, hnsw, ivfpq; did you mean 'hnsw'?"),
            (["--run", "RUN", "--index", "ivfpq"], "--index ivfpq: a gallery of"),
            (
                ["--run", "RUN", "--index", "flat", "--set", "evaluate.reranking.k1=4"],
                "--index flat: approximate search does not support protocols with reranking: use the exact search",
            ),
            (["--run", "RUN", "--embedding", "int9"], "--embedding int9: should be one of float32, "),
            (["--run", "RUN", "--embedding", "int8,"], "--embedding : should be one of float32, "),
            (
                ["--run", "RUN", "--embedding", "int8", "--embedding", "pca:17"],
                "--embedding pca:17: embeddings have only",
            ),
            (["--run", "RUN", "--embedding", "pq:3x4"], "pq:3x4: cannot divide embeddings of 16 values into 3 equal"),
            (["--run", "RUN", "--embedding", "pq:4x12"], "--embedding pq:4x12: takes at least 4096 training images"),
            (["--run", "RUN", "--set", "evaluate.embedding=int9"], "evaluate.embedding in --set: should be one of"),
            (["--run", "RUN", "--index", "flat", "--embedding", "int8"], "--index flat: it has its own format"),
            (["--run", "RUN", "--train-embeddings", "x.npz"], "--train-embeddings: only for --embeddings"),
            (["--run", "nowhere"], "nowhere is not the folder of a run: it has no recipe.yaml"),
        ],
    )
    def test_mistakes(self, evaluate, student, options, message):
        code, _, err = evaluate(*(student if option == "RUN" else option for option in options))
        assert code == 2 and message in err and "Traceback" not in err

    @pytest.mark.parametrize("option", ["--index flat", "--embedding int8", "--clustering"])
    def test_options_of_a_single_process(self, evaluate, student, monkeypatch, option: str):
        launcher = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
        for name, value in launcher.items():
            monkeypatch.setenv(name, value)
        code, _, err = evaluate("--run", student, *option.split())
        assert code == 2 and f"{option}: only in a single process" in err

    def test_unfinished_run(self, evaluate, student, tmp_path):
        (tmp_path / "recipe.yaml").write_text((student / "recipe.yaml").read_text())
        code, _, err = evaluate("--run", tmp_path)
        assert code == 2 and "has an unfinished run: it has no student.pt" in err


class TestEmbeddings:
    def test_scores(self, evaluate, scores_of, embeddings):
        code, out, err = evaluate("--embeddings", embeddings, "--protocol", "market1501")
        assert code == 0, err
        assert "some.npz, protocol of market1501" in out and re.search(r"mAP +\d", out)
        written = scores_of("--embeddings", embeddings, "--protocol", "market1501")
        assert written["protocol"]["junk"] == [-1] and written["queries"] == 20 and "approximate" not in written
        arrays = dict(np.load(embeddings))
        arrays["gallery_ids"][:30] = -1
        np.savez(embeddings, **arrays)
        with_junk = scores_of("--embeddings", embeddings, "--protocol", "market1501")
        assert sum(with_junk["per_query"]["positives"]) < sum(written["per_query"]["positives"])

    @pytest.mark.parametrize(
        ("index", "name"), [("flat", "Flat"), ("hnsw", "HNSW32, efSearch=256"), ("ivfpq", "IVF17,PQ2x4, nprobe=8")]
    )
    def test_approximate_search(self, evaluate, tmp_path, index: str, name: str):
        file = save_embeddings(tmp_path / "large.npz", 20, 700)
        code, out, err = evaluate("--embeddings", file, "--protocol", "market1501", "--index", index)
        assert code == 0, err
        assert f"approximate search: {name}" in out
        rows = dict(re.findall(r"^ +(\S.*?) {2,}([\d. ]+?) *$", out.split("approximate search")[1], re.MULTILINE))
        exact, approximate = map(float, rows["mAP"].split())
        recall = float(rows["recall of the 10 nearest"].split()[1])
        assert {"R@1", "R@5", "R@10", "seconds to build the index", "seconds to search and score"} < rows.keys()
        assert (exact == approximate and recall == 100) if index == "flat" else (approximate > 0 and 10 < recall <= 100)

    @pytest.mark.parametrize("name", ["float16", "int8", "binary", "pca:4", "pq:4x4", "matryoshka:4"])
    def test_format_of_embeddings(self, evaluate, scores_of, embeddings, tmp_path, name: str):
        """Training embeddings are an array of the file, or in a file of their own, as `benchmark embed` writes it."""
        training = np.random.default_rng(1).normal(size=(50, 8))
        arguments = ["--protocol", "market1501", "--embedding", name]
        if name in ("int8", "pca:4", "pq:4x4"):
            code, _, err = evaluate("--embeddings", embeddings, *arguments)
            assert code == 2 and f"--embedding {name}: it is learned from embeddings of training images, and" in err
            np.savez(tmp_path / "training.npz", embeddings=training, paths=np.array(["a.png"]))
            apart = scores_of("--embeddings", embeddings, *arguments, "--train-embeddings", tmp_path / "training.npz")
            np.savez(embeddings, **np.load(embeddings), train=training)
            assert scores_of("--embeddings", embeddings, *arguments) == apart
        written = scores_of("--embeddings", embeddings, *arguments)
        assert written["embedding"] == name and 0 < written["scores"]["mAP"] < 1

    def test_queries_in_the_gallery(self, scores_of, embeddings):
        arrays = {name: array for name, array in np.load(embeddings).items() if not name.startswith("gallery")}
        np.savez(embeddings, **arrays)
        results = scores_of("--embeddings", embeddings, "--protocol", "cub200", "--embedding", "float32,float16,binary")
        scores = {name: content["scores"]["mAP"] for name, content in results["embeddings"].items()}
        assert scores["float16"] == pytest.approx(scores["float32"], abs=1e-3) and scores["binary"] < 1

    @pytest.mark.parametrize(
        ("arrays", "name", "message"),
        [
            ({"vectors": np.ones((9, 8))}, "int8", "no array train or embeddings. The file has: vectors."),
            ({"train": np.ones((9, 7))}, "int8", "the training embeddings have 7 values, and the others 8"),
            ({"train": np.ones((3, 8))}, "pca:4", "--embedding pca:4: takes at least 4 training images to learn"),
            ({"train": np.array([["a"] * 8])}, "int8", "which is not a number"),
            ({"train": np.ones((9, 8))}, "float16", "float16 is not learned: leave the option out"),
        ],
    )
    def test_mistakes_of_training_embeddings(self, evaluate, embeddings, tmp_path, arrays, name, message):
        file = tmp_path / "training.npz"
        np.savez(file, **arrays)
        options = ["--protocol", "market1501", "--embedding", name, "--train-embeddings", file]
        code, _, err = evaluate("--embeddings", embeddings, *options)
        assert code == 2 and message in err and "Traceback" not in err

    def test_missing_faiss(self, evaluate, embeddings, monkeypatch):
        monkeypatch.setitem(sys.modules, "faiss", None)
        code, _, err = evaluate("--embeddings", embeddings, "--protocol", "market1501", "--index", "flat")
        assert code == 2 and "pip install 'retrieval-distill-benchmark[ann]'" in err
        assert len(err.strip().splitlines()) == 1

    @pytest.mark.parametrize(
        ("change", "options", "message"),
        [
            ({"query_ids": None}, ["market1501"], "missing array 'query_ids'. The file has: query, query_cams,"),
            ({"gallery_cams": None}, ["market1501"], "missing array 'gallery_cams'"),
            (
                {"query_cams": None, "query_cameras": np.ones(20, int)},
                ["market1501"],
                "missing array 'query_cams'; did you mean 'query_cameras'? The file has: ",
            ),
            ({"gallery_cams": None}, ["market1501"], "missing array 'gallery_cams'. The file has: "),
            ({"query_ids": np.array([1, None] * 10)}, ["market1501"], "query_ids has Python objects, not numbers"),
            ({"query_ids": np.array(["0001"] * 20)}, ["market1501"], "have the value '0001', which is not a number"),
            ({"query_ids": np.zeros(3)}, ["market1501"], "some.npz: query: identities must be"),
            ({"query_ids": np.zeros(20)}, ["market1501"], "not (20,) float64: convert them to integers"),
            (
                {"query": None, "Query": np.ones((20, 8))},
                ["market1501"],
                "missing array 'query'; did you mean 'Query'?",
            ),
            ({"query": np.ones((20, 7))}, ["market1501"], "differ in size: 7 and 8"),
            ({}, [], "--embeddings needs --protocol DATASET"),
            ({}, ["market1510"], "did you mean 'market1501'"),
            ({}, ["market1501", "--flip"], "--dataset, --gallery and --flip: only for --run"),
            ({}, ["market1501", "--set", "evaluate.reranking.k3=1"], "k3"),
            ({}, ["market1501", "--set", "evaluate.reranking.k1=0"], "k1 must be at least 1"),
            ({}, ["market1501", "--set", "evaluate.tie=optimistic"], "evaluate.tie"),
            ({}, ["market1501", "--index", "ivfpq"], "--index ivfpq: a gallery of 60 vectors is too small"),
            (
                {},
                ["veri776", "--set", "dataset.ranked=tracks", "--index", "flat"],
                "approximate search does not support protocols with tracks",
            ),
            ({}, ["cub200"], "has an array 'gallery', but in the protocol of cub200 the queries are the gallery"),
            ({}, ["cub200", "--set", "evaluate.reranking.k1=4"], "reranking and query_in_gallery exclude"),
        ],
    )
    def test_mistakes(self, evaluate, embeddings, change, options, message):
        arrays = dict(np.load(embeddings)) | change
        np.savez(embeddings, **{name: array for name, array in arrays.items() if array is not None})
        protocol = ["--protocol"] if options else []
        code, _, err = evaluate("--embeddings", embeddings, *protocol, *options)
        assert code == 2 and message in err and "Traceback" not in err

    def test_arrays_that_are_not_needed(self, evaluate, embeddings):
        arrays = dict(np.load(embeddings)) | {"names": np.array(["a", None])}
        np.savez(embeddings, **arrays)
        code, out, err = evaluate("--embeddings", embeddings, "--protocol", "market1501")
        assert code == 0 and "mAP" in out
        assert "arrays that the protocol does not use: names" in " ".join(err.split())

    def test_labels_that_the_protocol_does_not_use(self, evaluate, embeddings):
        arrays = {name: array for name, array in np.load(embeddings).items() if name.startswith("query")}
        np.savez(embeddings, **arrays)
        code, _, err = evaluate("--embeddings", embeddings, "--protocol", "cub200")
        assert code == 0 and "arrays that the protocol does not use: query_cams" in " ".join(err.split())

    def test_protocol_that_depends_on_images(self, evaluate, embeddings, tmp_path):
        """Without the images, it would not be known whether there are cameras."""
        settings = ["--set", f"dataset.path={tmp_path / 'none'}"]
        code, _, err = evaluate("--embeddings", embeddings, "--protocol", "folder", *settings)
        assert code == 2 and "dataset.path" in err and "does not exist" in err

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_array_that_occurs_twice(self, evaluate, embeddings):
        with zipfile.ZipFile(embeddings, "a") as archive:
            archive.writestr("query_ids.npy", archive.read("query_ids.npy"))
        code, _, err = evaluate("--embeddings", embeddings, "--protocol", "market1501")
        assert code == 2 and "has the array 'query_ids' twice" in err

    def test_what_is_no_regular_file(self, evaluate, tmp_path):
        os.mkfifo(tmp_path / "pipe.npz")
        for path, kind in ((tmp_path / "pipe.npz", "not a regular file"), (tmp_path, "a folder")):
            code, _, err = evaluate("--embeddings", path, "--protocol", "market1501")
            assert code == 2 and f"{path.name} is {kind}" in err

    def test_array_that_is_shorter_than_it_says(self, evaluate, embeddings):
        """No memory is allocated for the 8 TB that the header promises."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 1)})
        with zipfile.ZipFile(embeddings, "w") as archive:
            for name in ("query", "query_ids", "query_cams", "gallery", "gallery_ids", "gallery_cams"):
                archive.writestr(f"{name}.npy", header.getvalue())
        code, _, err = evaluate("--embeddings", embeddings, "--protocol", "market1501")
        assert code == 2 and "is not a readable .npz file" in err

    def test_named_pipe(self, evaluate, tmp_path):
        os.mkfifo(tmp_path / "pipe.npz")
        code, _, err = evaluate("--embeddings", tmp_path / "pipe.npz", "--protocol", "market1501")
        assert code == 2 and "is not a regular file" in err

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive at all"])
    def test_unreadable_file(self, evaluate, tmp_path, content):
        (tmp_path / "bad.npz").write_bytes(content)
        code, _, err = evaluate("--embeddings", tmp_path / "bad.npz", "--protocol", "market1501")
        assert code == 2 and "is not a readable .npz file" in err

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
    def test_damaged_file_is_scored_or_refused(self, evaluate, embeddings, tmp_path, place, noise):
        np.savez_compressed(tmp_path / "whole.npz", **np.load(embeddings))
        content = bytearray((tmp_path / "whole.npz").read_bytes())
        place %= len(content)
        content[place : place + len(noise)] = noise
        (tmp_path / "damaged.npz").write_bytes(content)
        code, _, err = evaluate("--embeddings", tmp_path / "damaged.npz", "--protocol", "market1501")
        assert code in (0, 2) and "Traceback" not in err

    def test_file_with_a_single_array(self, evaluate, tmp_path):
        np.save(tmp_path / "query.npy", np.ones((3, 4)))
        code, _, err = evaluate("--embeddings", tmp_path / "query.npy", "--protocol", "market1501")
        assert code == 2 and "has a single array: save all arrays to a .npz file with numpy.savez" in err
