"""The built distributions, and what an installed copy does.

`methods/` and `datasets/` are subpackages of `benchmark`. A top-level package `datasets` would overwrite Hugging Face's
files in the same environment, and shadow it for anyone who starts Python in the repository: `datasets/` has no
`__init__.py`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from benchmark.registry import METHODS

ROOT = Path(__file__).parents[1]


def execute(*command: object, folder: Path, **environment: str) -> str:
    """Run a command without this process's PYTHON* variables; return its output."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(*arguments: object, folder: Path, **environment: str) -> str:
    return execute(sys.executable, *arguments, folder=folder, **environment)


def git(folder: Path, command: str) -> str:
    identity = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    return execute("git", *identity, *command.split(), folder=folder).strip()


def build(source: Path, target: Path, *kinds: str) -> None:
    # In safe-path mode: otherwise `import build` could find the folder build/ of the source.
    python("-P", "-m", "build", *kinds, "--no-isolation", "--outdir", target, source, folder=source)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit of all tracked and new files, and a file left over from an earlier build."""
    source = tmp_path_factory.mktemp("source")
    for name in git(ROOT, "ls-files --cached --others --exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    git(source, "init --quiet")
    git(source, "add --all")
    git(source, "commit --quiet --message all")
    (source / "build" / "lib" / "benchmark").mkdir(parents=True)
    (source / "build" / "lib" / "benchmark" / "deleted_since.py").touch()
    return source


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    target = tmp_path_factory.mktemp("built")
    build(source, target, "--sdist", "--wheel")
    return target


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder with the wheel's contents, inside an unrelated git repository."""
    repository = tmp_path_factory.mktemp("unrelated")
    git(repository, "init --quiet")
    git(repository, "commit --quiet --allow-empty --message unrelated")
    folder = repository / "site-packages"
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(folder)
    return folder


def files(folder: Path) -> set[str]:
    """The source files and package data under a folder."""
    found = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    return {path.relative_to(folder).as_posix() for path in found}


def test_wheel_contains_the_package(installed: Path) -> None:
    expected = {f"benchmark/{name}" for name in files(ROOT / "benchmark")} | {"benchmark/commit.txt"}
    expected |= {f"benchmark/methods/{name}" for name in files(ROOT / "methods")}
    expected |= {f"benchmark/datasets/{name}" for name in files(ROOT / "datasets")}
    information = next(installed.glob("*.dist-info")).name
    assert {name for name in files(installed) if not name.startswith(information)} == expected
    assert {"benchmark/py.typed", "benchmark/plots/assets/page.css"} <= expected


def test_wheel_metadata(installed: Path) -> None:
    information = next(installed.glob("*.dist-info"))
    assert (information / "licenses" / "LICENSE").is_file()
    assert "License-Expression: Apache-2.0" in (information / "METADATA").read_text()
    assert "benchmark = benchmark.__main__:main" in (information / "entry_points.txt").read_text()
    assert {path.name for path in installed.iterdir()} == {"benchmark", information.name}


def test_source_distribution_contains_the_repository(built: Path, source: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(git(source, "ls-files").splitlines()) | {"benchmark/commit.txt"} <= names


@pytest.mark.slow
def test_wheel_from_source_distribution_is_the_same(built: Path, installed: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    build(next(tmp_path.iterdir()), tmp_path / "wheel", "--wheel")
    with zipfile.ZipFile(next((tmp_path / "wheel").glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "again")
    assert files(tmp_path / "again") == files(installed)
    assert (tmp_path / "again" / "benchmark" / "commit.txt").read_text() == (
        installed / "benchmark" / "commit.txt"
    ).read_text()


def test_folders_that_must_not_be_packages() -> None:
    for name in ("datasets/__init__.py", "tests/__init__.py", "conftest.py"):
        assert not (ROOT / name).exists()


def test_datasets_of_hugging_face_is_importable(tmp_path: Path) -> None:
    # Python started in the repository puts its root first on the path, where datasets/ has no __init__.py: a regular
    # package further down the path takes precedence.
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("theirs = True")
    assert python("-c", "import datasets; print(datasets.theirs)", folder=ROOT, PYTHONPATH=str(tmp_path)) == "True\n"


@pytest.mark.parametrize("where", ["elsewhere", "in the repository"])
def test_installed_copy_finds_methods_and_datasets(installed: Path, tmp_path: Path, where: str) -> None:
    # In the repository, `python -m` imports the package of the checkout, with the two folders next to it.
    check = "import benchmark.datasets.glyphs as glyphs; print(glyphs.__file__)"
    folder = ROOT if where == "in the repository" else tmp_path
    methods = python("-m", "benchmark", "list", "methods", folder=folder, PYTHONPATH=str(installed))
    assert sorted(line.split()[0] for line in methods.splitlines() if line.startswith("  ")) == METHODS.names()
    origin = Path(python("-c", check, folder=folder, PYTHONPATH=str(installed)).strip())
    assert origin == (ROOT / "datasets" if folder == ROOT else installed / "benchmark" / "datasets") / "glyphs.py"


def test_installed_copy_adds_no_finder(installed: Path, tmp_path: Path) -> None:
    # The finder of a checkout would take Hugging Face's `datasets` in site-packages for benchmark.datasets.
    check = "import sys, benchmark; print([finder for finder in sys.meta_path if 'Checkout' in str(finder)])"
    assert python("-c", check, folder=tmp_path, PYTHONPATH=str(installed)) == "[]\n"


def test_installed_copy_knows_its_version_and_commit(installed: Path, source: Path, tmp_path: Path) -> None:
    check = (
        "import sys, benchmark; from benchmark.version import commit;"
        "print(benchmark.__version__, commit(), 'torch' in sys.modules)"
    )
    version, commit, torch = python("-c", check, folder=tmp_path, PYTHONPATH=str(installed)).split()
    assert commit == git(source, "rev-parse HEAD")
    assert version == next(installed.glob("*.dist-info")).name.removesuffix(".dist-info").partition("-")[2]
    assert version == f"0.2.dev1+g{commit[:9]}"
    assert torch == "False"


def test_checkout_reads_its_commit_from_git(source: Path) -> None:
    check = "from benchmark.version import commit; print(commit())"
    head = git(source, "rev-parse HEAD")
    assert python("-c", check, folder=source, PYTHONDONTWRITEBYTECODE="1") == f"{head}\n"
    license = source / "LICENSE"
    text = license.read_text()
    license.write_text(text + "changed")
    assert python("-c", check, folder=source, PYTHONDONTWRITEBYTECODE="1") == f"{head}-dirty\n"
    license.write_text(text)


def test_commit_is_unknown_without_git(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(installed / "benchmark", tmp_path / "benchmark", ignore=shutil.ignore_patterns("commit.txt"))
    check = "from benchmark.version import commit; print(commit())"
    assert python("-c", check, folder=tmp_path) == "None\n"


def test_public_names_are_imported_lazily(installed: Path, tmp_path: Path) -> None:
    check = "import sys, benchmark; print('torch' in sys.modules, benchmark.load_student.__name__)"
    assert python("-c", check, folder=tmp_path, PYTHONPATH=str(installed)).split() == ["False", "load_student"]
    with pytest.raises(AssertionError, match="has no attribute 'load_teacher'"):
        python("-c", "import benchmark; benchmark.load_teacher", folder=tmp_path, PYTHONPATH=str(installed))


LOADED = """
import sys
sys.modules["pkg_resources"] = None
import benchmark.engine.train, benchmark.experiment.run, benchmark.commands.run
from mmengine.runner import Runner
print(open("/proc/self/maps").read())
"""
"""Imports everything that a run imports, without pkg_resources; prints the shared libraries that were loaded."""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see which libraries are loaded")
def test_engine_loads_without_libgl(tmp_path: Path) -> None:
    if "opencv-python" in {distribution.name for distribution in distributions()}:
        pytest.skip("opencv-python, which needs libGL, is installed in addition to this package's requirements")
    # Where the system allows mount namespaces, every libGL is hidden by an empty file. Elsewhere, and in addition, no
    # loaded library may be a libGL: the dynamic linker would have loaded it with the library that needs it.
    listing = execute("ldconfig", "-p", folder=tmp_path) if shutil.which("ldconfig") else ""
    found = [line.split()[-1] for line in listing.splitlines() if line.strip().startswith("libGL.so")]
    hide = "; ".join(["set -e", *(f"mount --bind /dev/null {library}" for library in found), 'exec "$@"'])
    hidden = ("unshare", "--mount", "sh", "-c", hide, "sh")
    allowed = shutil.which("unshare") and subprocess.run([*hidden, "true"], capture_output=True).returncode == 0
    command = (*(hidden if allowed else ()), sys.executable, "-c", LOADED)
    libraries = execute(*command, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert "cv2" in libraries
    assert "libGL" not in libraries


def test_pkg_resources_is_not_used() -> None:
    folders = [ROOT / name for name in ("benchmark", "methods", "datasets", "tools")]
    sources = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    assert [path for path in sources if "pkg_resources" in path.read_text(encoding="utf-8")] == []


@pytest.mark.slow
def test_pip_install_puts_the_command_on_the_path(source: Path, tmp_path: Path) -> None:
    git(tmp_path, f"clone --quiet {source} clone")
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed", "--quiet", "--disable-pip-version-check")
    python("-m", "pip", "install", *options, "--prefix", tmp_path / "prefix", tmp_path / "clone", folder=tmp_path)
    packages = next((tmp_path / "prefix" / "lib").glob("*/site-packages"))
    path = f"{tmp_path / 'prefix' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = execute("benchmark", "list", "datasets", folder=tmp_path, PATH=path, PYTHONPATH=str(packages))
    assert "glyphs" in command


@pytest.mark.slow
def test_run_of_an_installed_copy_writes_where_it_was_started(
    installed: Path, source: Path, command: Any, tmp_path: Path
) -> None:
    before = files(installed)
    words = command(tmp_path, "--method", "kd", settings=["train.schedule.epochs=1", "teacher.train.schedule.epochs=1"])
    execute(*words, folder=tmp_path, PYTHONPATH=str(installed))
    assert files(installed) == before
    record = json.loads(next((tmp_path / "boards" / "records").glob("*kd*.json")).read_text())
    assert record["commit"] == git(source, "rev-parse HEAD")


def steps_of_dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line.strip()]


@pytest.mark.slow
def test_steps_of_the_dockerfile(source: Path, tmp_path: Path) -> None:
    """Execute the steps without Docker: in a new environment, with the image's folders below a temporary one.

    System packages are those of this machine, and Python packages other than this one those of this environment.
    """
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    packages = next((environment / "lib").glob("*/site-packages"))
    for bundled in (*packages.glob("setuptools*"), packages / "pkg_resources", packages / "_distutils_hack"):
        shutil.rmtree(bundled, ignore_errors=True)  # Python 3.11 installs an old one
    (packages / "distutils-precedence.pth").unlink(missing_ok=True)
    (packages / "requirements.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    variables = {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as "no isolation"
    }
    folder = tmp_path

    def local(text: str) -> str:
        return re.sub(r"(?<![\w.])/(?=src|results)", f"{tmp_path}/", text)

    steps = steps_of_dockerfile()
    assert steps[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.1[123]-slim", steps[0][1])
    for instruction, text in steps[1:]:
        match instruction:
            case "COPY":
                origin, target = local(text).split()
                assert origin == "."
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("build"))
            case "RUN" if "apt-get" not in text:
                execute("sh", "-c", local(text), folder=folder, **variables)
            case "ENV":
                name, _, value = local(text).partition("=")
                variables[name] = value
            case "WORKDIR":
                folder = Path(local(text))
                folder.mkdir(exist_ok=True)
            case "CMD":
                small = ["dataset.train_identities=40", "dataset.test_identities=20", "train.schedule.epochs=1"]
                small += ["teacher.train.schedule.epochs=1", "train.sampler.identities=8"]
                small += ["teacher.train.sampler.identities=8", "teacher.checkpoint=null", "runtime.threads=1"]
                options = [word for setting in small for word in ("--set", setting)]
                execute(*json.loads(text), *options, folder=folder, **variables)
    assert (environment / "bin" / "benchmark").is_file()
    record = json.loads(next((tmp_path / "results" / "leaderboards" / "records").glob("*-cdd-*.json")).read_text())
    assert record["commit"] == git(source, "rev-parse HEAD")
