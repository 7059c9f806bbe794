"""Package layout and build metadata that pyproject.toml cannot express.

`methods/` and `datasets/` are top-level folders of the repository but subpackages of `benchmark` in Python. A top-level
package named `datasets` would overwrite Hugging Face's package of that name in the same environment.
"""

import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
COMMIT_FILE = Path("benchmark") / "commit.txt"
"""Holds the git commit of an installed copy; read by `benchmark.version.commit`."""


def write_commit(folder: Path) -> None:
    """Write the checkout's git commit into a build folder, or copy the file of an unpacked source distribution."""
    target = folder / COMMIT_FILE
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.SubprocessError):  # git is missing, or refuses the folder: the commit is unknown
            return
        target.write_text(commit, encoding="utf-8")
    elif (ROOT / COMMIT_FILE).exists():
        shutil.copyfile(ROOT / COMMIT_FILE, target)


class BuildWithCommit(build_py):
    """Build from an empty folder, so that modules deleted since an earlier build are left out; add the commit."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:  # an editable install is a checkout: its commit is read from git
            write_commit(Path(self.build_lib))


class SdistWithCommit(sdist):
    """Add the commit to the source distribution, which has no git history."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir))


engine = find_packages(include=["benchmark", "benchmark.*"])
method_folders = [f"benchmark.methods.{name}" for name in find_packages("methods")]

setup(
    packages=[*engine, "benchmark.methods", *method_folders, "benchmark.datasets"],
    package_dir={
        "benchmark": "benchmark",
        "benchmark.methods": "methods",
        "benchmark.datasets": "datasets",
    },
    package_data={
        "": ["assets/*"],
        "benchmark": ["py.typed"],
        "benchmark.recipe": ["presets/*.yaml", "pairs/*.yaml"],
        "benchmark.datasets": ["*.npz", "teachers/*/*", "teachers/*/checkpoints/*"],
    },
    cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit},
)
