"""The names that users import from `benchmark` and `benchmark.retrieval`."""

import ast
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import benchmark
import benchmark.retrieval

lazy_packages = pytest.mark.parametrize(
    "package", [benchmark, benchmark.retrieval], ids=lambda package: package.__name__
)


@lazy_packages
def test_names_are_declared_for_type_checkers(package):
    tree = ast.parse(Path(package.__file__).read_text())
    declared = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = [node for node in declared.body if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.asname for node in imports for alias in node.names) == sorted(package.__all__)


@lazy_packages
def test_names_are_not_hidden_by_submodules(package):
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(package.__all__)


@lazy_packages
def test_help_lists_every_name(package):
    text = pydoc.plain(pydoc.render_doc(package))
    assert [name for name in package.__all__ if name not in text] == []


@lazy_packages
def test_unknown_name(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'load_teacher'"):
        _ = package.load_teacher


def test_what_datasets_need_does_not_import_torch():
    names = "DATASETS METHODS Card Protocol RetrievalDataset Sample UserError load_plugin"
    check = f"import sys; from benchmark import {', '.join(names.split())}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "False\n"
