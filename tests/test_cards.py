"""The page of all methods' cards."""

from pathlib import Path
from typing import Any, ClassVar

from benchmark.commands.cards import page
from benchmark.data.batch import Batch
from benchmark.method import Method
from benchmark.model.features import Features
from benchmark.registry import METHODS

PAGE = Path(__file__).parents[1] / "methods" / "README.md"


class Odd(Method):
    """Odd: a card with <everything> that Markdown would take for markup.

    Equation: a * b * c_i_j, |x| and `a * b` in code.

        sum_i * x_i    indented

    Args:
        weight: Factor of |x|.
    """

    presets: ClassVar[dict[str, Any]] = {"louder": {"weight": 2.0}}
    recipe: ClassVar[dict[str, Any]] = {"student": {"like": "teacher"}}

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict:
        return {}


def test_making_it_again_changes_nothing():
    committed = PAGE.read_text(encoding="utf-8")
    assert committed == page({name: METHODS.find(name) for name in METHODS.names()}), "run `benchmark cards`"


def test_every_method_is_on_it():
    committed = PAGE.read_text(encoding="utf-8")
    assert all(f"\n### `{name}`\n" in committed for name in METHODS.names())


def test_what_markdown_would_take_for_markup_is_text():
    text = page({"odd": Odd})
    assert r"with \<everything\> that" in text
    assert r"a \* b \* c\_i\_j, \|x\| and `a * b` in code." in text
    assert "\n    sum_i * x_i    indented\n" in text
    assert r"| `weight`    | `1`       | Factor of \|x\|. |" in text
    assert "- Preset (--set method.preset=louder): weight=2." in text
    assert "```yaml\nstudent:\n  like: teacher\n```" in text
