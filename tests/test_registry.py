"""How methods and datasets are found and registered, and what happens if a plugin fails."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmark.errors import UserError, nearest
from benchmark.registry import DATASETS, METHODS, PluginRegistry, load_plugin

GOOD = """
from benchmark.widgets import WIDGETS

@WIDGETS.register_module("{name}")
class Widget:
    pass
"""


@pytest.fixture
def widgets(tmp_path, monkeypatch):
    """A registry of "widgets", with the package `benchmark.widgets` in `tmp_path`/widgets."""
    folder = tmp_path / "widgets"
    folder.mkdir()
    package = ModuleType("benchmark.widgets")
    package.__path__ = [str(folder)]
    package.WIDGETS = PluginRegistry("widget")
    monkeypatch.setitem(sys.modules, "benchmark.widgets", package)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield package.WIDGETS
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def distribution(root: Path, name: str, entry_points: str) -> None:
    """Write the metadata of an installed package."""
    write(root / f"{name}-1.0.dist-info" / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    write(root / f"{name}-1.0.dist-info" / "entry_points.txt", entry_points)


def test_built_in_plugins():
    assert {"cdd", "kd", "none", "rkd"} <= set(METHODS.names())
    assert "glyphs" in DATASETS.names()
    assert METHODS.failures == DATASETS.failures == {}


def test_modules_and_packages_of_the_folder(widgets, tmp_path):
    write(tmp_path / "widgets/small.py", GOOD.format(name="small"))
    write(tmp_path / "widgets/large/__init__.py", GOOD.format(name="large"))
    assert widgets.names() == ["large", "small"]
    assert widgets.find("small").__name__ == "Widget"
    assert widgets.names() == ["large", "small"]


def test_entry_points_of_installed_packages(widgets, tmp_path):
    write(tmp_path / "third_party.py", GOOD.format(name="foreign"))
    distribution(tmp_path, "third", "[benchmark.widgets]\nforeign = third_party\n")
    distribution(tmp_path, "other", "[benchmark.other]\nnot_ours = nowhere\n")
    assert widgets.names() == ["foreign"]
    assert widgets.failures == {}


def test_failing_plugins_do_not_affect_the_others(widgets, tmp_path):
    write(tmp_path / "widgets/a_bad.py", "import a_package_that_is_missing")
    write(tmp_path / "widgets/b_wrong.py", "def :")
    write(tmp_path / "widgets/good.py", GOOD.format(name="good"))
    distribution(tmp_path, "third", "[benchmark.widgets]\nforeign = third_party_missing:Thing\n")
    assert widgets.names() == ["good"]
    failures = {origin: error.partition(":")[0] for origin, error in widgets.failures.items()}
    assert failures == {
        "benchmark.widgets.a_bad": "ModuleNotFoundError",
        "benchmark.widgets.b_wrong": "SyntaxError",
        "foreign (third_party_missing:Thing)": "ModuleNotFoundError",
    }
    with pytest.raises(UserError, match=r"a_bad could not be imported: .*a_package_that_is_missing"):
        widgets.find("a_bad")


def test_name_that_is_taken(widgets, tmp_path):
    write(tmp_path / "widgets/first.py", GOOD.format(name="same"))
    write(tmp_path / "widgets/second.py", GOOD.format(name="same"))
    assert widgets.find("same").__module__ == "benchmark.widgets.first"
    assert (
        "widget 'same' is already registered by benchmark.widgets.first.Widget"
        in (widgets.failures["benchmark.widgets.second"])
    )


def test_registering_sets_the_name(widgets):
    widget = widgets.register_module("small")(type("Widget", (), {}))
    assert widget.name == "small"
    assert widgets.register_module()(type("Large", (), {})).name == "Large"


def test_class_that_is_defined_again(widgets):
    widgets.register_module("small")(type("Widget", (), {}))
    again = widgets.register_module("small")(type("Widget", (), {}))  # as when a notebook's cell is run twice
    assert widgets.find("small") is again


def test_unknown_name(widgets, tmp_path):
    hint = " Names that a plugin registers need --plugin FILE."
    for name in ("alpha", "beta"):
        write(tmp_path / f"widgets/{name}.py", GOOD.format(name=name))
    with pytest.raises(UserError) as raised:
        widgets.find("Alhpa")
    assert str(raised.value) == "unknown widget 'Alhpa'; did you mean 'alpha'? Known: alpha, beta." + hint
    with pytest.raises(UserError) as raised:
        widgets.find("zzz")
    assert str(raised.value) == "unknown widget 'zzz'. Known: alpha, beta." + hint


@pytest.mark.parametrize(
    ("name", "answer"),
    [("veri", "; did you mean 'VeRi776'?"), ("KD", "; did you mean 'kd'?"), ("zzz", "."), ("", ".")],
)
def test_nearest_name(name, answer):
    assert nearest(name, ["kd", "VeRi776"]) == answer


class TestPluginFile:
    METHOD = """
from benchmark import METHODS, Method

@METHODS.register_module("{name}")
class Mine(Method):
    pass
"""

    @pytest.fixture(autouse=True)
    def forget(self):
        """Remove what the test registers."""
        METHODS.discover()
        before = set(METHODS.classes)
        yield
        for name in set(METHODS.classes) - before:
            METHODS.classes.pop(name)

    def refused(self, path: Path) -> str:
        with pytest.raises(UserError) as raised:
            load_plugin(path)
        assert str(path) in str(raised.value)
        return str(raised.value)

    def test_registers_its_classes(self, tmp_path):
        write(tmp_path / "mine.py", self.METHOD.format(name="mine"))
        load_plugin(tmp_path / "mine.py")
        assert METHODS.find("mine").__name__ == "Mine"

    def test_equal_file_names(self, tmp_path):
        """Their classes are two, even if they have the same name."""
        for folder in ("one", "two"):
            write(tmp_path / folder / "mine.py", self.METHOD.format(name="mine"))
        load_plugin(tmp_path / "one" / "mine.py")
        load_plugin(tmp_path / "one" / "mine.py")
        assert "method 'mine' is already registered" in self.refused(tmp_path / "two" / "mine.py")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("\nimport sys\nsys.exit(0)", "could not be imported in line 3: SystemExit: 0"),
            ("\ndef f():\n    return 1 / 0\nf()", "could not be imported in line 3: ZeroDivisionError"),
            ("class Stop(BaseException): pass\nraise Stop(1)", "could not be imported in line 2: Stop: 1"),
            ("raise GeneratorExit", "could not be imported in line 1: GeneratorExit"),
            ("from benchmark import *\nMETHODS.register_module('a')(5)", "5 must be a subclass of benchmark.Method"),
            (
                "from benchmark import *\n@METHODS.register_module('a')\nclass A(Method): recipe = 5",
                "A.recipe must be a mapping, not 5",
            ),
            (
                "from benchmark import *\n@METHODS.register_module('a')\nclass A(Method):\n"
                "    search = {'weihgt': Range(0.1, 1)}\n    def __init__(self, weight: float = 1.0): ...",
                "A.search names 'weihgt', which must be an argument of its constructor with a positive number",
            ),
            (
                "from benchmark import *\n@METHODS.register_module('a')\nclass A(Method):\n"
                "    search = {'w': Range(0, 1)}",
                "could not be imported in line 4: ValueError: Range(0, 1): must have 0 < low < high",
            ),
            ("def :", "could not be imported: SyntaxError"),
            ("\0", "could not be imported: "),
            (
                "from benchmark import METHODS\nMETHODS.register_module('a')(object)",
                "must be a subclass of benchmark.Meth",
            ),
            (
                "from benchmark import *\n@DATASETS.register_module('a')\nclass A(RetrievalDataset): pass",
                "A must define scan and card",
            ),
        ],
    )
    def test_invalid(self, tmp_path, text, message):
        write(tmp_path / "mine.py", text)
        assert message in self.refused(tmp_path / "mine.py")
        assert "a" not in METHODS.names()

    def test_no_file(self, tmp_path):
        assert "does not exist" in self.refused(tmp_path / "mine.py")
        assert "is a folder: name a Python file" in self.refused(tmp_path)

    def test_name_that_is_taken(self, tmp_path):
        kd = METHODS.find("kd")
        write(tmp_path / "mine.py", self.METHOD.format(name="kd"))
        assert "method 'kd' is already registered" in self.refused(tmp_path / "mine.py")
        assert METHODS.find("kd") is kd

    def test_missing_file(self, tmp_path):
        assert "does not exist" in self.refused(tmp_path / "mine.py")

    def test_file_that_is_not_python(self, tmp_path):
        write(tmp_path / "mine.txt", "")
        assert "not a Python file" in self.refused(tmp_path / "mine.txt")

    def test_file_that_fails(self, tmp_path):
        write(tmp_path / "mine.py", "1 / 0")
        assert "ZeroDivisionError: division by zero" in self.refused(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("registry", "name"),
    [(METHODS, "teacher"), (METHODS, "a/b"), (DATASETS, "README"), (DATASETS, "con"), (DATASETS, "x" * 100)],
)
def test_names_that_no_record_can_have_are_refused(registry, name):
    with pytest.raises(UserError, match=f"{registry.name} '{name}' of .*choose another name|must be a name"):
        registry.register_module(name)(type("Plugin", (), {}))
    assert name not in registry.names()
