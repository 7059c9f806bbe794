import pytest

from benchmark.errors import UserError
from benchmark.registry import METHODS
from benchmark.suite.grid import Grid


def runs(grid: Grid) -> list[tuple[str, str, int]]:
    return [(recipe.method.name, recipe.dataset.name, recipe.seed) for recipe in grid.recipes()]


def test_order_of_runs():
    grid = Grid(methods=["none", "kd"], datasets=["glyphs"], seeds=[0, 3])
    assert runs(grid) == [("none", "glyphs", 0), ("kd", "glyphs", 0), ("none", "glyphs", 3), ("kd", "glyphs", 3)]


def test_all_stands_for_every_registered_method():
    grid = Grid.from_file(None, methods=["all", "kd+rkd"], datasets=["glyphs"])
    assert grid.methods == [*METHODS.names(), "kd+rkd"]
    assert grid.seeds == [0]


def test_arguments_override_the_file(tmp_path):
    (tmp_path / "short.yaml").write_text("train: {schedule: {epochs: 3}}")
    file = tmp_path / "suite.yaml"
    file.write_text(
        "methods: [none, kd+rkd]\ndatasets: glyphs\nseeds: [1]\nconfig: short.yaml\nset: [train.augment.pad=1]"
    )
    grid = Grid.from_file(file)
    assert runs(grid) == [("none", "glyphs", 1), ("kd+rkd", "glyphs", 1)]
    assert grid.recipes()[0].train.schedule.epochs == 3
    grid = Grid.from_file(file, methods=["cdd"], seeds=[0, 2], settings=["train.schedule.epochs=1"])
    assert runs(grid) == [("cdd", "glyphs", 0), ("cdd", "glyphs", 2)]
    assert grid.recipes()[0].train.schedule.epochs == 1
    assert grid.settings == ["train.augment.pad=1", "train.schedule.epochs=1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[none]", "must be a mapping of keys to values, such as `methods: .none, kd.`"),
        ("method: none", "unknown key 'method'; did you mean 'methods'"),
        ("methods: {none: 1}", "methods must be a list of names, not {'none': 1}"),
        ("seeds: [one]", "seeds must be a list of integers"),
        ("seeds: [true]", "seeds must be a list of integers"),
        ("set: [1]", "set must be a list of key=value strings"),
        ("config: [a, b]", "config must be one file"),
        ("methods: [none", "is not valid YAML"),
        ("datasets: [glyphs]", "the suite has no methods: give --methods, or the key 'methods'"),
        ("methods: [kd, kd]\ndatasets: glyphs", "methods: kd is listed twice"),
    ],
)
def test_rejects_invalid_file(tmp_path, text: str, message: str):
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        Grid.from_file(file)


def test_rejects_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none.yaml cannot be read"):
        Grid.from_file(tmp_path / "none.yaml")
