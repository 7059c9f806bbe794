"""The command line: what it prints, and how it says no."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from benchmark import cli
from benchmark.data import default_data_root
from benchmark.errors import UserError
from benchmark.registry import DATASETS, METHODS

PLUGIN = '''
from benchmark.data.card import Card
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.datasets.glyphs import Glyphs
from benchmark.method import Method
from benchmark.registry import DATASETS, METHODS

@DATASETS.register_module("absent")
class Absent(RetrievalDataset):
    """A set that nobody has."""

    name = "absent"
    card = Card("Absent", "Nobody 2020.", "none", "Write to nobody@example.org.", "absent/*.jpg")

    def scan(self, split):
        return []

@DATASETS.register_module("few")
class Few(Glyphs):
    """A few glyphs."""

    name = "few"

    def __init__(self, root, train_identities: int = 6, test_identities: int = 4) -> None:
        super().__init__(root, train_identities, test_identities)

@METHODS.register_module("picky")
class Picky(Method):
    """Refuses what it is given."""

    def __init__(self, weight: float = 1.0) -> None:
        from benchmark.errors import UserError
        raise UserError("picky: never satisfied")
'''


@dataclass
class Output:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def benchmark(capsys, monkeypatch, tmp_path):
    """`benchmark("list", "methods")` runs the command in an empty folder; what a plug-in registers is forgotten."""
    before = [(registry, registry.names()) for registry in (METHODS, DATASETS)]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str | Path) -> Output:
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        for registry, names in before:
            for name in set(registry.classes).difference(names):
                registry.classes.pop(name)
        captured = capsys.readouterr()
        return Output(ended.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


def test_help_imports_nothing_heavy():
    check = (
        "import sys; sys.argv = ['benchmark', '--help']\n"
        "from benchmark.cli import main\n"
        "try: main()\n"
        "finally: print('imported:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    imported = done.stdout.partition("imported:")[2].split()
    assert "Compare distillation methods" in done.stdout
    assert "typer" in imported
    assert not {"torch", "timm", "mmengine", "numpy", "pydantic", "PIL"} & set(imported)


class TestList:
    def test_datasets_and_what_they_are(self, benchmark):
        rows = [line.split(maxsplit=1) for line in benchmark("list", "datasets").out.splitlines()]
        assert [name for name, _ in rows] == DATASETS.names()
        assert all(text.endswith(".") for _, text in rows)

    def test_methods_under_their_kinds(self, benchmark):
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

    def test_plugins_are_listed(self, benchmark, plugin):
        lines = benchmark("list", "datasets", "--plugin", plugin).out.splitlines()
        assert ["few", "A few glyphs."] in [line.split(maxsplit=1) for line in lines]

    def test_plugins_that_failed_are_named_beside(self, benchmark, monkeypatch):
        monkeypatch.setitem(METHODS.failures, "theirs (their.module)", "ImportError: no [module]")
        done = benchmark("list", "methods")
        assert (done.code, "cdd" in done.out) == (0, True)
        assert " ".join(done.err.split()) == "theirs (their.module) could not be imported: ImportError: no [module]"


class TestShow:
    def test_a_method(self, benchmark):
        done = benchmark("show", "cdd")
        assert done.out.startswith("cdd (method)\n\nCapacity dynamic distillation")
        for part in (
            "CVPR 2023",
            "Needs a teacher, the teacher's classifier and",
            "Preset (--set method.preset=released): lasso=0.004",
            "student:\n    like: teacher",
        ):
            assert part in done.out
        line = next(line for line in done.out.splitlines() if line.startswith("  temperature "))
        assert line.split()[:2] == ["temperature", "2"]
        assert line.endswith("KL term.")
        assert "Args:" not in done.out

    def test_a_method_without_a_teacher_or_parameters(self, benchmark):
        done = benchmark("show", "none")
        assert "Needs no teacher." in done.out
        assert "Parameters" not in done.out

    def test_a_dataset(self, benchmark):
        lines = benchmark("show", "glyphs").out.splitlines()
        assert lines[0] == "glyphs (dataset)"
        assert ["train", "13579", "1000", "16"] in [line.split() for line in lines]
        starts = [line.split()[0] for line in lines if line]
        assert {"Terms:", "Obtain:", "Protocol:", "train_identities", "image_size:"} <= set(starts)
        assert "root" not in starts

    def test_a_name_that_is_both(self, benchmark):
        METHODS.register_module("glyphs")(type("Same", (METHODS.find("none"),), {}))
        out = benchmark("show", "glyphs").out
        assert "glyphs (method)" in out
        assert "glyphs (dataset)" in out


class TestDryRun:
    def test_prints_recipe_counts_and_cost_and_writes_nothing(self, benchmark, tiny_config, data_root, tmp_path):
        where = ["--data-root", data_root, "--work-dir", "runs", "--leaderboards", "boards"]
        done = benchmark("run", "--method", "cdd", "--dataset", "glyphs", "--config", tiny_config, "--dry-run", *where)
        assert done.code == 0, done.err
        recipe, _, rest = done.out.partition("\n\n")
        (tmp_path / "replay.yaml").write_text(recipe)
        again = benchmark("run", "--config", tmp_path / "replay.yaml", "--dry-run", *where)
        assert again.out == done.out, "what was printed is a recipe"
        lines = rest.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["train", "query", "gallery", "teacher", "student"]
        assert "40 identities" in lines[0]
        assert all("parameters" in line and "MACs" in line and "FLOPs" in line for line in lines[3:])
        assert list(Path.cwd().iterdir()) == []


def test_run_ends_with_a_table_a_record_and_a_page(benchmark, tiny_config, data_root):
    arguments = ["--method", "none", "--dataset", "glyphs", "--config", tiny_config, "--data-root", data_root]
    epochs = [f"--set={part}schedule.epochs=1" for part in ("train.", "teacher.train.")]
    done = benchmark("run", *arguments, *epochs, "--device", "cpu", "--seed", "3")
    assert done.code == 0, done.err
    assert "mAP" in done.out
    folders = {line.split()[0]: Path(line.split()[1]) for line in done.out.splitlines()[-2:]}
    record = json.loads((folders["run"] / "record.json").read_text())
    assert (record["method"], record["seed"]) == ("none", 3)
    assert "none" in folders["page"].read_text()
    assert len(list(Path("leaderboards/records").glob("*.json"))) == 2, "the student's and its teacher's"
    page = folders["page"].read_text()
    folders["page"].unlink()
    assert str(folders["page"]) in benchmark("leaderboard").out.split()
    assert folders["page"].read_text() == page


class TestData:
    def test_check_then_sample_then_damage(self, benchmark, plugin, tmp_path):
        where = ["--data-root", tmp_path / "data", "--plugin", plugin]
        done = benchmark("data", "check", "few", *where)
        assert done.code == 0
        assert "all as expected" in done.out
        done = benchmark("data", "sample", "few", *where, "--split", "query", "--rows", "2")
        assert done.out.split() == ["few-query.png"]
        assert Image.open("few-query.png").width > 100
        image = next((tmp_path / "data").glob("few-*/query/*.png"))
        image.write_bytes(b"")
        done = benchmark("data", "check", "few", *where)
        assert done.code == 1
        assert f"query/{image.name} cannot be read" in done.out

    def test_prepare_unpacks_then_checks(self, benchmark, tmp_path):
        with zipfile.ZipFile(tmp_path / "official.zip", "w") as archive:
            for folder in ("bounding_box_train", "query", "bounding_box_test"):
                archive.writestr(f"Market-1501-v15.09.15/{folder}/0002_c1s1_000451_03.jpg", b"")
        done = benchmark("data", "prepare", "market1501", tmp_path / "official.zip", "--data-root", tmp_path / "data")
        assert done.code == 1, "the archive has not the published counts"
        assert "official.zip: 3 files, 0 bytes" in " ".join(done.err.split())
        assert "defect: " in done.out
        again = benchmark("data", "prepare", "market1501", tmp_path / "official.zip", "--data-root", tmp_path / "data")
        assert (again.code, again.out) == (2, "")
        assert "nothing is overwritten" in again.err

    def test_prepare_renders_what_needs_no_archive(self, benchmark, plugin, tmp_path):
        done = benchmark("data", "prepare", "few", "--plugin", plugin, "--data-root", tmp_path / "data")
        assert done.code == 0
        assert "all as expected" in done.out

    def test_options_of_a_dataset(self, benchmark, plugin, tmp_path):
        where = ["--data-root", tmp_path / "data", "--plugin", plugin]
        for setting in ("train_identities=5", "dataset.train_identities=5"):
            done = benchmark("data", "check", "few", *where, "--set", setting)
            assert done.code == 0
            assert ["train", "identities", "5", "5"] in [line.split() for line in done.out.splitlines()]


class TestMistakes:
    """Exit code 2 and a clear line, never a traceback."""

    RUN = ("run", "--method", "none", "--dataset", "glyphs")

    def refused(self, done: Output, *parts: str) -> None:
        assert done.code == 2
        assert done.err.startswith("benchmark: ")
        assert "Traceback" not in done.err
        assert done.out == ""
        for part in parts:
            assert part in done.err

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["list", "method"], ["'methods'"]),
            (["show", "cddd"], ["'cddd'", "'cdd'"]),
            (["run"], ["--method NAME", "--dataset NAME"]),
            (["run", "--method", "cddd", "--dataset", "glyphs"], ["unknown method 'cddd'", "'cdd'"]),
            (["run", "--method", "cdd", "--dataset", "glyhps"], ["unknown dataset 'glyhps'", "'glyphs'"]),
            (
                [*RUN, "--set", "train.schedule.epoch=1"],
                ["unknown key; did you mean train.schedule.epochs?"],
            ),
            ([*RUN, "--set", "seed=one"], ["seed in --set", "integer", "'one'"]),
            ([*RUN, "--config", "none.yaml"], ["none.yaml", "No such file"]),
            ([*RUN, "--device", "gpu"], ["unknown device 'gpu'", "cuda"]),
            ([*RUN, "--plugin", "none.py"], ["none.py"]),
            ([*RUN, "--set", "student.backbone=resnet62"], ["student: unknown backbone 'resnet62'"]),
            ([*RUN, "--set", "student.args={chanels: [1]}"], ["student: ", "'chanels'", "'channels'"]),
            ([*RUN, "--set", "teacher.network.weights=techer"], ["teacher.network.weights", "'teacher'"]),
            ([*RUN, "--set", "teacher.checkpoint=none.pt"], ["teacher.checkpoint", "none.pt"]),
            ([*RUN, "--set", "runtime.compile=inducktor"], ["runtime.compile", "'inductor'"]),
            ([*RUN, "--set", "image_size=[1, 1]", "--set", "student.backbone=test_vit"], ["student"]),
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
            (
                ["data", "check", "cub200", "--set", "splits=closed"],
                ["unknown key; did you mean dataset.split?"],
            ),
            (["data", "sample", "cub200", "--set", "split"], ["--set split", "key=value"]),
            (["leaderboard"], ["leaderboards/records"]),
        ],
        ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
    )
    def test_by_command_line(self, benchmark, arguments, parts):
        self.refused(benchmark(*arguments), *parts)
        assert list(Path.cwd().iterdir()) == []

    def test_by_a_method_that_refuses_its_arguments(self, benchmark, plugin):
        self.refused(
            benchmark("run", "--method", "picky", "--dataset", "glyphs", "--plugin", plugin), "never satisfied"
        )

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
        self.refused(done, "Absent is not at", str(tmp_path / "data" / "absent"), "Write to nobody@example.org.")

    @pytest.mark.parametrize("option", ["--work-dir", "--data-root", "--leaderboards"])
    def test_a_folder_that_cannot_be_made(self, benchmark, tiny_config, data_root, tmp_path, option):
        (tmp_path / "file").touch()  # tests may run as root, who may write anywhere but below a file
        where = {"--data-root": data_root, option: tmp_path / "file" / "folder"}
        done = benchmark(*self.RUN, "--config", tiny_config, *(part for pair in where.items() for part in pair))
        self.refused(done, str(tmp_path / "file"), "Not a directory")

    def test_tensorboard_that_is_not_installed(self, benchmark, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        self.refused(benchmark(*self.RUN, "--tensorboard"), "pip install tensorboard")

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (UserError("a\nb"), 2, "benchmark: a\nb\n"),
            (PermissionError(13, "Permission denied", "/data"), 2, "benchmark: /data: Permission denied\n"),
            (ConnectionError("no route"), 2, "benchmark: ConnectionError('no route')\n"),
            (KeyboardInterrupt(), 130, "benchmark: interrupted; run the same command with --resume to continue\n"),
        ],
    )
    def test_what_goes_wrong_anywhere(self, benchmark, monkeypatch, error, code, text):
        def fail() -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        assert benchmark("run") == Output(code, "", text)

    def test_usage_errors(self, benchmark):
        assert benchmark("lst").code == benchmark("run", "--seed", "one").code == 2


def test_data_root_is_the_option_the_variable_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    assert default_data_root() == tmp_path
    monkeypatch.delenv("BENCHMARK_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_root() == tmp_path / ".cache" / "benchmark"


class TestLeaderboardCheck:
    """Exit code 1 for a page that does not match the records, 2 for a record with impossible values."""

    @pytest.fixture
    def folder(self, tmp_path):
        """Committed records, and the pages that they give."""
        shutil.copytree(Path(__file__).parents[1] / "leaderboards", tmp_path / "leaderboards")
        return tmp_path / "leaderboards"

    def test_nothing_to_say(self, benchmark, folder):
        done = benchmark("leaderboard", "--check", "--folder", folder)
        assert (done.code, done.out) == (0, "")

    def test_an_edited_page(self, benchmark, folder):
        (folder / "reported.md").write_text("edited")
        done = benchmark("leaderboard", "--check", "--folder", folder)
        assert done.code == 1
        assert f"{folder / 'reported.md'} does not match the records; run `benchmark leaderboard`" in done.out

    def test_an_edited_record(self, benchmark, folder):
        (path,) = (folder / "records").glob("glyphs-kd-seed0-*.json")
        path.write_text(path.read_text().replace('"macs": 13643776', '"macs": 13643775'))
        done = benchmark("leaderboard", "--check", "--folder", folder)
        assert done.code == 2
        lines = done.err.splitlines()
        assert lines[0] == f"benchmark: {path}: network.cost.flops is 27287552, expected 27287550, which is 2 x macs"
        assert lines[-1] == f"{path}: network.cost.macs is 13643775, expected 13643776, by the recipe"
