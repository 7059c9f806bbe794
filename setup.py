"""The package list: methods/ and datasets/ live at the top of the repository, but inside `benchmark` in Python."""

from setuptools import find_packages, setup

engine = find_packages(include=["benchmark", "benchmark.*"])
method_folders = [f"benchmark.methods.{name}" for name in find_packages("methods")]

setup(
    packages=[*engine, "benchmark.methods", *method_folders, "benchmark.datasets"],
    package_dir={
        "benchmark": "benchmark",
        "benchmark.methods": "methods",
        "benchmark.datasets": "datasets",
    },
    package_data={"benchmark": ["py.typed"]},
)
