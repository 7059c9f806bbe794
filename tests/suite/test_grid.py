import pytest

from benchmark.errors import UserError
from benchmark.registry import METHODS
from benchmark.suite.grid import Grid


def runs(grid: Grid) -> list[tuple[str, str, int]]:
    return [(recipe.method.name, recipe.dataset.name, recipe.seed) for recipe in grid.recipes()]


def test_all_methods_with_one_seed_before_the_next():
    grid = Grid(["none", "kd"], ["glyphs"], [0, 3])
    assert runs(grid) == [("none", "glyphs", 0), ("kd", "glyphs", 0), ("none", "glyphs", 3), ("kd", "glyphs", 3)]


def test_every_registered_method():
    assert Grid(["all"], ["glyphs"], [0]).methods == METHODS.names()
    assert Grid(["all", "kd+rkd"], ["glyphs"], [0]).methods == [*METHODS.names(), "kd+rkd"]


def test_a_file_and_what_is_said_besides(tmp_path):
    (tmp_path / "short.yaml").write_text("train: {schedule: {epochs: 3}}")
    file = tmp_path / "suite.yaml"
    file.write_text(
        "methods: [none, kd+rkd]\ndatasets: glyphs\nseeds: [1]\nconfig: short.yaml\nset: [train.augment.pad=1]"
    )
    grid = Grid.read(file)
    assert runs(grid) == [("none", "glyphs", 1), ("kd+rkd", "glyphs", 1)]
    assert grid.recipes()[0].train.schedule.epochs == 3
    other = Grid.read(file, methods=["cdd"], seeds=[0, 2], settings=["train.schedule.epochs=1"])
    assert runs(other) == [("cdd", "glyphs", 0), ("cdd", "glyphs", 2)]
    assert other.recipes()[0].train.schedule.epochs == 1
    assert other.settings == ["train.augment.pad=1", "train.schedule.epochs=1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[none]", "must be a mapping of keys to values, such as `methods: .none, kd.`"),
        ("method: none", "unknown key 'method'; did you mean 'methods'"),
        ("methods: {none: 1}", "methods must be a list of names, not {'none': 1}"),
        ("seeds: [one]", "seeds must be a list of whole numbers"),
        ("seeds: [true]", "seeds must be a list of whole numbers"),
        ("set: [1]", "set must be a list of key=value texts"),
        ("config: [a, b]", "config must be one file"),
        ("methods: [none", "is not valid YAML"),
        ("datasets: [glyphs]", "which methods\\? Give --methods or the key 'methods'"),
        ("methods: [kd, kd]\ndatasets: glyphs", "methods: kd is named twice"),
    ],
)
def test_mistakes_are_named(tmp_path, text: str, message: str):
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        Grid.read(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none.yaml cannot be read"):
        Grid.read(tmp_path / "none.yaml")
