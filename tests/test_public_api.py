"""The names that users import from `benchmark`."""

import ast
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import benchmark


def test_names_are_declared_for_type_checkers():
    tree = ast.parse(Path(benchmark.__file__).read_text())
    declared = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = [node for node in declared.body if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.asname for node in imports for alias in node.names) == sorted(benchmark.__all__)


def test_names_are_not_hidden_by_submodules():
    assert not {module.name for module in pkgutil.iter_modules(benchmark.__path__)} & set(benchmark.__all__)


def test_help_lists_every_name():
    text = pydoc.plain(pydoc.render_doc(benchmark))
    assert [name for name in benchmark.__all__ if name not in text] == []


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'benchmark' has no attribute 'load_teacher'"):
        _ = benchmark.load_teacher


def test_importing_the_package_does_not_import_torch():
    check = "import sys, benchmark; benchmark.METHODS; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "False\n"
