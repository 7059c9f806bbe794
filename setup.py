"""The package list: methods/ and datasets/ live at the top of the repository, but inside `benchmark` in Python."""

import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

engine = find_packages(include=["benchmark", "benchmark.*"])
method_folders = [f"benchmark.methods.{name}" for name in find_packages("methods")]


class FreshBuild(build_py):
    """Leaves out modules that only an earlier build, still lying in build/, knew."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    packages=[*engine, "benchmark.methods", *method_folders, "benchmark.datasets"],
    package_dir={
        "benchmark": "benchmark",
        "benchmark.methods": "methods",
        "benchmark.datasets": "datasets",
    },
    package_data={"": ["assets/*"], "benchmark": ["py.typed"]},
    cmdclass={"build_py": FreshBuild},
)
