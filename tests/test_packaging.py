"""What a user installs.

`methods/` and `datasets/` are packages within `benchmark`. A top-level package `datasets` would overwrite Hugging
Face's files in the same environment, and shadow it for whoever starts Python in the repository: hence no `__init__.py`.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmark.registry import METHODS

ROOT = Path(__file__).parents[1]


def python(*arguments: str, folder: Path, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tracked and the new files, in which an earlier build has left something."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    (source / "build" / "lib" / "benchmark").mkdir(parents=True)
    (source / "build" / "lib" / "benchmark" / "renamed_since.py").touch()
    # In safe-path mode: in this folder `import build` could be a build folder's.
    python("-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source), folder=source)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel's contents, as installing it leaves them, within somebody's repository."""
    repository = tmp_path_factory.mktemp("theirs")
    for command in ("init", "-c user.name=me -c user.email=me@example.org commit --allow-empty -m theirs"):
        subprocess.run(["git", *command.split()], cwd=repository, capture_output=True, check=True)
    folder = repository / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def modules(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.py")}


def test_the_wheel_holds_every_python_file_and_no_other(installed):
    expected = {f"benchmark/{name}" for name in modules(ROOT / "benchmark")}
    expected |= {f"benchmark/methods/{name}" for name in modules(ROOT / "methods")}
    expected |= {f"benchmark/datasets/{name}" for name in modules(ROOT / "datasets")}
    assert modules(installed) == expected


def test_the_wheel_is_typed_licensed_and_takes_no_other_top_level_name(installed):
    assert (installed / "benchmark" / "py.typed").is_file()
    information = next(installed.glob("*.dist-info"))
    assert (information / "licenses" / "LICENSE").is_file()
    assert "License-Expression: Apache-2.0" in (information / "METADATA").read_text()
    assert "benchmark = benchmark.cli:main" in (information / "entry_points.txt").read_text()
    assert {path.name for path in installed.iterdir()} == {"benchmark", information.name}


def test_folders_that_must_not_be_packages_are_none():
    for name in ("datasets/__init__.py", "tests/__init__.py", "conftest.py"):
        assert not (ROOT / name).exists()


def test_datasets_is_left_to_hugging_face(tmp_path):
    # From the root of the repository, which Python puts first on the path, a package further down wins.
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("theirs = True")
    assert python("-c", "import datasets; print(datasets.theirs)", folder=ROOT, PYTHONPATH=str(tmp_path)) == "True\n"


@pytest.mark.parametrize("where", ["elsewhere", "in the repository"])
def test_an_installed_copy_finds_its_methods_and_datasets(installed, tmp_path, where):
    # In the repository, `python -m` takes the package from there, beside which the two folders lie.
    check = "import benchmark.datasets.glyphs as glyphs; print(glyphs.__file__)"
    folder = ROOT if where == "in the repository" else tmp_path
    methods = python("-m", "benchmark", "list", "methods", folder=folder, PYTHONPATH=str(installed))
    assert sorted(line.split()[0] for line in methods.splitlines() if line.startswith("  ")) == METHODS.names()
    origin = Path(python("-c", check, folder=folder, PYTHONPATH=str(installed)).strip())
    assert origin == (ROOT / "datasets" if folder == ROOT else installed / "benchmark" / "datasets") / "glyphs.py"


def test_an_installed_copy_does_not_take_the_repository_it_lies_in_for_its_own(installed):
    check = "from benchmark.experiment.environment import commit; print(commit())"
    assert python("-c", check, folder=installed, PYTHONPATH=str(installed)) == "None\n"
    assert len(python("-c", check, folder=ROOT).strip().removesuffix("-dirty")) == 40


def test_an_installed_copy_does_not_look_for_plugins_beside_itself(installed, tmp_path):
    # There, `datasets` is Hugging Face's.
    check = "import sys, benchmark; print([finder for finder in sys.meta_path if 'Checkout' in str(finder)])"
    assert python("-c", check, folder=tmp_path, PYTHONPATH=str(installed)) == "[]\n"


def test_the_package_gives_its_version_and_load_student_without_torch(installed, tmp_path):
    check = (
        "import sys, benchmark; print(benchmark.__version__, 'torch' in sys.modules, benchmark.load_student.__name__)"
    )
    name = next(installed.glob("*.dist-info")).name
    version = name.removesuffix(".dist-info").partition("-")[2]
    output = python("-c", check, folder=tmp_path, PYTHONPATH=str(installed))
    assert output.split() == [version, "False", "load_student"]
    with pytest.raises(AssertionError, match="has no attribute 'load_teacher'"):
        python("-c", "import benchmark; benchmark.load_teacher", folder=tmp_path, PYTHONPATH=str(installed))
