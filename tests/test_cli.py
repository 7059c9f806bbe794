"""The command line: what commands print, and how mistakes are reported."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from benchmark import cli
from benchmark.data import default_data_root
from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.registry import DATASETS, METHODS

SLOW_LIBRARIES = {"torch", "timm", "torchvision", "mmengine", "matplotlib", "scipy", "sklearn", "pandas"}
"""Packages that take a noticeable time to import."""
PLUGIN = '''
from benchmark import DATASETS, METHODS, Card, Method, RetrievalDataset, UserError
from benchmark.datasets.glyphs import Glyphs

@DATASETS.register_module("absent")
class Absent(RetrievalDataset):
    """A dataset that is not installed."""

    card = Card("Absent", "Doe 2020.", "free", "Write to doe@example.org.", "absent/*.jpg")

    def scan(self, split):
        return []

@DATASETS.register_module("few")
class Few(Glyphs):
    """A few glyphs."""

    def __init__(self, root, train_identities: int = 6, test_identities: int = 4) -> None:
        super().__init__(root, train_identities, test_identities)

@METHODS.register_module("picky")
class Picky(Method):
    """Refuses all arguments."""

    def __init__(self, weight: float = 1.0) -> None:
        raise UserError("picky: never satisfied")
'''
NONE = ("run", "--method", "none", "--dataset", "glyphs")


@pytest.fixture
def benchmark(command_line, monkeypatch, tmp_path):
    """`benchmark("list", "methods")` runs a command in this process and in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return command_line


@pytest.fixture
def plugin(tmp_path) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


def imported_by(*commands: str, folder: Path) -> list[set[str]]:
    """Run commands one after the other in a new process, and return the packages that are imported after each."""
    code = (
        "import sys; from benchmark.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    sys.argv[1:] = command.split()\n"
        "    try: main()\n"
        "    except SystemExit as ended: print(f'exit code {ended.code}; imported:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True, cwd=folder)
    assert done.stdout.count("exit code 0; imported:") == len(commands), done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("exit code 0; imported:")]
    return [{module.partition(".")[0] for module in line.split()} for line in lines]


def assert_refused(done, *parts: str) -> None:
    """Check that a command reports a mistake of the user with exit code 2 and without a traceback."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("benchmark: ")
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err


class TestProgram:
    def test_help_and_datasets_need_no_torch(self, tmp_path):
        check = f"data check glyphs2 --data-root {tmp_path} --set train_identities=20 --set test_identities=5"
        after_help, *_, imported = imported_by("--help", "list datasets", "show glyphs2", check, folder=tmp_path)
        assert not {"numpy", "pydantic", "PIL"} & after_help
        assert not SLOW_LIBRARIES & imported

    @pytest.mark.slow
    def test_methods_need_torch_and_networks_need_timm(self, tmp_path):
        run = f"run --method kd --dataset glyphs2 --dry-run --data-root {tmp_path}"
        _, methods, networks = imported_by("list methods", "show cdd", run, folder=tmp_path)
        assert SLOW_LIBRARIES & methods == {"torch"}
        # timm imports torchvision; scikit-learn, which imports SciPy, divides training and validation identities.
        assert SLOW_LIBRARIES & networks == {"torch", "timm", "torchvision", "sklearn", "scipy"}

    def test_version(self, benchmark, monkeypatch):
        monkeypatch.setattr("benchmark.version.package_version", lambda: "1.2.3")
        monkeypatch.setattr("benchmark.version.commit", lambda: "a" * 40)
        assert benchmark("--version") == (0, f"benchmark 1.2.3 (commit {'a' * 40})\n", "")

    @pytest.mark.parametrize("words", [("-h",), ("data", "-h"), ("data", "check", "-h")])
    def test_short_option_for_help(self, benchmark, words):
        assert benchmark(*words)[:2] == benchmark(*words[:-1], "--help")[:2]

    @pytest.mark.parametrize(
        ("words", "completion"),
        [
            ("benchmark lead", {"leaderboard"}),
            ("benchmark data pre", {"prepare"}),
            ("benchmark run --plugin absent.py --dry", {"--dry-run"}),
            ("benchmark run --pair relaxed-r50-r18-c", {"relaxed-r50-r18-cars", "relaxed-r50-r18-cub"}),
        ],
    )
    def test_completion_in_bash(self, words, completion):
        environment = os.environ | {
            "_BENCHMARK_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        command = [sys.executable, "-c", "from benchmark.cli import app; app(prog_name='benchmark')"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert set(done.stdout.split()) == completion, done.stderr

    def test_data_root(self, monkeypatch, tmp_path):
        monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
        assert default_data_root() == tmp_path
        monkeypatch.delenv("BENCHMARK_DATA")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_data_root() == tmp_path / ".cache" / "benchmark"


class TestList:
    def test_datasets(self, benchmark):
        rows = [line.split(maxsplit=1) for line in benchmark("list", "datasets").out.splitlines()]
        assert [name for name, _ in rows] == DATASETS.names()
        assert all(text.endswith(".") for _, text in rows)

    def test_methods_by_kind(self, benchmark):
        listed, kind = {}, ""
        for line in benchmark("list", "methods").out.splitlines():
            if line.startswith("  "):
                name, text = line.split(maxsplit=1)
                listed[name] = kind
                assert text.endswith(".")
            else:
                kind = line.partition(":")[0]
        assert listed == {name: METHODS.find(name).kind for name in METHODS.names()}

    def test_backbones(self, benchmark):
        assert {"resnet50", "vit_tiny_patch16_224"} <= set(benchmark("list", "backbones").out.split())

    def test_plugin(self, benchmark, plugin):
        lines = benchmark("list", "datasets", "--plugin", plugin).out.splitlines()
        assert ["few", "A few glyphs."] in [line.split(maxsplit=1) for line in lines]

    def test_plugin_that_cannot_be_imported(self, benchmark, monkeypatch):
        monkeypatch.setitem(METHODS.failures, "theirs (their.module)", "ImportError: no [module]")
        done = benchmark("list", "methods")
        assert (done.code, "cdd" in done.out) == (0, True)
        assert " ".join(done.err.split()) == "theirs (their.module) could not be imported: ImportError: no [module]"


class TestShow:
    def test_method(self, benchmark):
        done = benchmark("show", "cdd")
        assert done.out.startswith("cdd (method)\n\nCapacity dynamic distillation")
        for part in (
            "CVPR 2023",
            "Needs a teacher, the teacher's classifier, a student with the teacher's backbone and",
            "Preset (--set method.preset=released): lasso=0.004",
            "student:\n    like: teacher",
        ):
            assert part in done.out
        line = next(line for line in done.out.splitlines() if line.startswith("  temperature "))
        assert line.split()[:2] == ["temperature", "2"]
        assert line.endswith("KL term.")
        assert "Args:" not in done.out

    def test_method_without_teacher_and_parameters(self, benchmark):
        done = benchmark("show", "none")
        assert "Needs no teacher." in done.out
        assert "Parameters" not in done.out

    def test_dataset(self, benchmark):
        lines = benchmark("show", "glyphs").out.splitlines()
        assert lines[0] == "glyphs (dataset)"
        assert ["train", "13579", "1000", "16"] in [line.split() for line in lines]
        starts = [line.split()[0] for line in lines if line]
        assert {"Terms:", "Obtain:", "Protocol:", "train_identities", "image_size:"} <= set(starts)
        assert "root" not in starts

    def test_name_of_a_method_and_a_dataset(self, benchmark):
        METHODS.register_module("glyphs")(type("Same", (METHODS.find("none"),), {}))
        out = benchmark("show", "glyphs").out
        assert "glyphs (method)" in out
        assert "glyphs (dataset)" in out


class TestRun:
    def test_dry_run(self, benchmark, tiny_config, data_root, tmp_path):
        """Prints a recipe that repeats the run, image counts and costs, and writes nothing."""
        where = ["--data-root", data_root, "--work-dir", "runs", "--leaderboards", "boards"]
        done = benchmark("run", "--method", "cdd", "--dataset", "glyphs", "--config", tiny_config, "--dry-run", *where)
        assert done.code == 0, done.err
        recipe, _, rest = done.out.partition("\n\n")
        lines = rest.splitlines()
        kinds = ["train", "query", "gallery", "teacher", "student", "cdd"]
        assert [line.partition(":")[0] for line in lines] == kinds
        assert "40 identities" in lines[0]
        assert all("parameters" in line and "MACs" in line and "FLOPs" in line for line in lines[3:5])
        assert re.search(r"at most \d\d\.\d% of .* MACs, of which gradient resetting alone \d\d\.\d% and", lines[-1])
        assert list(Path.cwd().iterdir()) == []

        (tmp_path / "replay.yaml").write_text(recipe)
        assert benchmark("run", "--config", tmp_path / "replay.yaml", "--dry-run", *where).out == done.out

    def test_cfg_options(self, benchmark, tiny_config, data_root):
        run = ["run", "--method", "kd", "--dataset", "glyphs", "--config", tiny_config, "--data-root", data_root]
        several = benchmark(*run, "--cfg-options", "seed=3", "train.schedule.epochs=1", "--dry-run")
        assert several.code == 0, several.err
        assert several.out == benchmark(*run, "--set=seed=3", "--set", "train.schedule.epochs=1", "--dry-run").out
        assert benchmark(*run, "--cfg-options", "seed=3", "epochs").code == 2

    def test_result(self, benchmark, tiny_config, data_root):
        epochs = [f"--set={part}schedule.epochs=1" for part in ("train.", "teacher.train.")]
        options = ["--config", tiny_config, "--data-root", data_root, *epochs, "--device", "cpu", "--seed", "3"]
        done = benchmark(*NONE, *options)
        assert done.code == 0, done.err
        assert "mAP" in done.out
        paths = {line.split()[0]: Path(line.split()[1]) for line in done.out.splitlines()[-2:]}
        record = json.loads((paths["run"] / "record.json").read_text())
        assert (record["method"], record["seed"]) == ("none", 3)
        assert len(list(Path("leaderboards/records").glob("*.json"))) == 2, "of the student and its teacher"

        page = paths["page"].read_text()
        assert "none" in page
        paths["page"].unlink()
        assert str(paths["page"]) in benchmark("leaderboard").out.split()
        assert paths["page"].read_text() == page

    def test_interruption(self, benchmark, tiny_config, data_root, monkeypatch):
        def interrupt(self):
            raise KeyboardInterrupt

        monkeypatch.setattr(Experiment, "run", interrupt)
        done = benchmark(*NONE, "--config", tiny_config, "--data-root", data_root)
        assert done == (130, "", "benchmark: interrupted; run the same command with --resume to continue\n")


class TestData:
    def test_check_and_sample(self, benchmark, plugin, tmp_path):
        where = ["--data-root", tmp_path / "data", "--plugin", plugin]
        done = benchmark("data", "check", "few", *where)
        assert done.code == 0
        assert "all as expected" in done.out
        assert benchmark("data", "sample", "few", *where, "--rows", "501").code == 2
        done = benchmark("data", "sample", "few", *where, "--split", "query", "--rows", "2")
        assert done.out.split() == ["few-query.png"]
        assert Image.open("few-query.png").width > 100
        image = next((tmp_path / "data").glob("few-*/query/*.png"))
        image.write_bytes(b"")
        done = benchmark("data", "check", "few", *where)
        assert done.code == 1
        assert f"query/{image.name} cannot be read" in done.out

    def test_prepare_from_an_archive(self, benchmark, tmp_path):
        with zipfile.ZipFile(tmp_path / "official.zip", "w") as archive:
            for folder in ("bounding_box_train", "query", "bounding_box_test"):
                archive.writestr(f"Market-1501-v15.09.15/{folder}/0002_c1s1_000451_03.jpg", b"")
        command = ("data", "prepare", "market1501", tmp_path / "official.zip", "--data-root", tmp_path / "data")
        done = benchmark(*command)
        assert done.code == 1, "the archive does not have the published counts"
        assert "official.zip: 3 files, 0 bytes" in " ".join(done.err.split())
        assert "defect: " in done.out
        again = benchmark(*command)
        assert (again.code, again.out) == (2, "")
        assert "nothing is overwritten" in again.err

    def test_prepare_without_an_archive(self, benchmark, plugin, tmp_path):
        done = benchmark("data", "prepare", "few", "--plugin", plugin, "--data-root", tmp_path / "data")
        assert done.code == 0
        assert "all as expected" in done.out

    @pytest.mark.parametrize("setting", ["train_identities=5", "dataset.train_identities=5"])
    def test_options_of_the_dataset(self, benchmark, plugin, tmp_path, setting):
        where = ["--data-root", tmp_path / "data", "--plugin", plugin]
        done = benchmark("data", "check", "few", *where, "--set", setting)
        assert done.code == 0
        assert ["train", "identities", "5", "5"] in [line.split() for line in done.out.splitlines()]


class TestPaths:
    def test_home_folder_after_an_equals_sign(self, benchmark, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "images" / "ada").mkdir(parents=True)
        done = benchmark("data", "check", "folder", "--data-root=~/root", "--set", "path=~/images")
        assert f"Found in {tmp_path / 'images'}" in done.out
        done = benchmark("data", "check", "market1501", "--data-root=~/root")
        assert_refused(done, f"{tmp_path / 'root' / 'market1501'}")

    def test_names_that_are_not_text_in_recipes(self, benchmark):
        odd = os.fsdecode(b"\xc4\xe3")
        for arguments in (("--set", f"dataset.path={odd}"), ("--cache", odd)):
            assert_refused(
                benchmark(*NONE, *arguments), "not text in UTF-8, as recipes are; for a path, give a link to it"
            )


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["list", "method"], ["'methods'"]),
            (["show", "cddd"], ["'cddd'", "'cdd'"]),
            (["run"], ["--method NAME", "--dataset NAME"]),
            (["run", "--method", "cddd", "--dataset", "glyphs"], ["unknown method 'cddd'", "'cdd'"]),
            (["run", "--method", "cdd", "--dataset", "glyhps"], ["unknown dataset 'glyhps'", "'glyphs'"]),
            ([*NONE, "--set", "train.schedule.epoch=1"], ["unknown key; did you mean train.schedule.epochs?"]),
            ([*NONE, "--set", "seed=one"], ["seed in --set", "integer", "'one'"]),
            ([*NONE, "--config", "none.yaml"], ["none.yaml", "No such file"]),
            ([*NONE, "--device", "gpu"], ["unknown device 'gpu'", "cuda"]),
            ([*NONE, "--plugin", "none.py"], ["none.py"]),
            ([*NONE, "--set", "student.backbone=resnet62"], ["student: unknown backbone 'resnet62'"]),
            (["data", "check", "glyhps"], ["'glyphs'"]),
            (["data", "sample", "glyphs", "--split", "tran"], ["'train'"]),
            (["data", "sample", "glyphs", "--output", "sheet.tif"], ["sheet.tif", ".png"]),
            (["data", "prepare", "veri776"], ["name the archive", "VeRidataset"]),
            (["data", "prepare", "cub200"], ["name the archive", "--download"]),
            (["data", "prepare", "glyphs", "one.zip"], ["glyphs has no archive", "Rendered on first use"]),
            (["data", "prepare", "veri776", "none.zip"], ["none.zip does not exist"]),
            (["data", "prepare", "veri776", "--download"], ["cannot be downloaded automatically", "by e-mail"]),
            (["data", "prepare", "cub200", "a.tgz", "--download"], ["not both"]),
            (["data", "check", "cub200", "--set", "split=open"], ["dataset.split in --set", "'zero_shot'", "'open'"]),
            (["data", "check", "cub200", "--set", "splits=closed"], ["unknown key; did you mean dataset.split?"]),
            (["data", "sample", "cub200", "--set", "split"], ["--set split", "key=value"]),
            (["leaderboard"], ["leaderboards/records"]),
        ],
        ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
    )
    def test_arguments(self, benchmark, arguments, parts):
        assert_refused(benchmark(*arguments), *parts)
        assert list(Path.cwd().iterdir()) == []

    def test_method_that_refuses_its_arguments(self, benchmark, plugin):
        done = benchmark("run", "--method", "picky", "--dataset", "glyphs", "--plugin", plugin)
        assert_refused(done, "never satisfied")

    @pytest.mark.parametrize(
        "command",
        [
            ["run", "--method", "none", "--dataset", "absent"],
            ["run", "--method", "none", "--dataset", "absent", "--dry-run"],
            ["data", "check", "absent"],
            ["data", "sample", "absent"],
        ],
    )
    def test_missing_data(self, benchmark, plugin, command, tmp_path):
        done = benchmark(*command, "--plugin", plugin, "--data-root", tmp_path / "data")
        assert_refused(done, "Absent is not at", str(tmp_path / "data" / "absent"), "Write to doe@example.org.")

    @pytest.mark.parametrize("option", ["--work-dir", "--data-root", "--leaderboards"])
    def test_folder_that_cannot_be_created(self, benchmark, tiny_config, data_root, tmp_path, option):
        (tmp_path / "file").touch()  # not a read-only folder: tests may run as root
        where = {"--data-root": data_root, option: tmp_path / "file" / "folder"}
        done = benchmark(*NONE, "--config", tiny_config, *(part for pair in where.items() for part in pair))
        assert_refused(done, str(tmp_path / "file"), "Not a directory")

    def test_tensorboard_that_is_not_installed(self, benchmark, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        assert_refused(benchmark(*NONE, "--tensorboard"), "pip install tensorboard")

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (UserError("a\nb"), 2, "benchmark: a\nb\n"),
            (PermissionError(13, "Permission denied", "/data"), 2, "benchmark: /data: Permission denied\n"),
            (ConnectionError("no route"), 2, "benchmark: ConnectionError('no route')\n"),
            (KeyboardInterrupt(), 130, "benchmark: interrupted\n"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
    )
    def test_exceptions(self, benchmark, monkeypatch, error, code, text):
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        assert benchmark("run") == (code, "", text)

    def test_usage_errors(self, benchmark):
        assert benchmark("lst").code == benchmark("run", "--seed", "one").code == 2


class TestLeaderboardCheck:
    """An outdated page gives exit code 1, and a record with impossible values gives 2."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        """A copy of the committed leaderboards of the first glyphs."""
        return shutil.copytree(Path(__file__).parents[1] / "leaderboards" / "archive", tmp_path / "leaderboards")

    @pytest.mark.slow
    def test_committed_leaderboards(self, benchmark, folder):
        done = benchmark("leaderboard", "--check", "--folder", folder)
        assert (done.code, done.out) == (0, "")

    @pytest.mark.slow
    def test_plots_against_another_cost(self, benchmark, folder):
        done = benchmark("leaderboard", "--against", "latency", "--folder", folder)
        assert (done.code, done.out.split()) == (0, [str(folder / "glyphs-against-latency.svg")])
        refused = benchmark("leaderboard", "--against", "latencies", "--folder", folder)
        assert refused.code == 2
        assert "--against latencies: unknown cost; did you mean 'latency'?" in refused.err

    @pytest.mark.slow
    def test_edited_page(self, benchmark, folder):
        (folder / "glyphs.md").write_text("edited")
        done = benchmark("leaderboard", "--check", "--folder", folder)
        assert done.code == 1
        assert f"{folder / 'glyphs.md'} does not match the records; run `benchmark leaderboard`" in done.out

    @pytest.mark.slow
    def test_edited_record(self, benchmark, folder):
        (path,) = (folder / "records").glob("glyphs-kd-seed0-*.json")
        path.write_text(path.read_text().replace('"macs": 13643776', '"macs": 13643775'))
        done = benchmark("leaderboard", "--check", "--folder", folder)
        assert done.code == 2
        problem = (
            f"benchmark: {path}: network.cost.flops is 27287552, expected 27287550, which is 2 x macs; saved.macs is"
        )
        assert done.err.startswith(problem)


def test_current_folder_that_has_been_removed(benchmark):
    Path.cwd().rmdir()
    done = benchmark("list", "methods")
    assert done.code == 2 and "the current folder has been removed" in done.err


def test_commands_for_a_single_process(command_line, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    code, _, error = command_line("suite", "--methods", "none", "--datasets", "glyphs")
    assert code == 2
    assert "`benchmark suite` is for a single one: start it without the launcher; run and evaluate share" in error


def test_runs_on_a_cluster_need_a_gpu_for_cuda(command_line, tmp_path):
    places = ("--work-dir", tmp_path / "runs", "--leaderboards", tmp_path / "boards")
    command = ("suite", "--methods", "none", "--datasets", "glyphs", "--ray", "auto", "--device", "cuda")
    code, _, error = command_line(*command, *places)
    assert code == 2
    assert "Ray hides all GPUs from runs that request none; add --gpus 1" in error
    assert not list(tmp_path.iterdir())
