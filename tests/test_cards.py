"""The Markdown page with the cards of all methods."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmark import METHODS, Batch, Features, Method
from benchmark.commands.cards import markdown_page

PAGE = Path(__file__).parents[1] / "methods" / "README.md"


class Example(Method):
    """Example: a card with <everything> that Markdown would take for markup.

    Equation: a * b * c_i_j, |x| and `a * b` in code.

        sum_i * x_i    indented

    Args:
        weight: Factor of |x|.
    """

    name: ClassVar[str] = "example"
    presets: ClassVar[dict[str, Any]] = {"louder": {"weight": 2.0}}
    recipe: ClassVar[dict[str, Any]] = {"student": {"like": "teacher"}}

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict:
        return {}


def test_committed_page_is_current():
    methods = [METHODS.find(name) for name in METHODS.names()]
    assert PAGE.read_text(encoding="utf-8") == markdown_page(methods), "run `benchmark cards`"


def test_committed_page_has_every_method():
    committed = PAGE.read_text(encoding="utf-8")
    assert all(f"\n### `{name}`\n" in committed for name in METHODS.names())


@pytest.mark.parametrize(
    "line",
    [
        r"with \<everything\> that",
        r"a \* b \* c\_i\_j, \|x\| and `a * b` in code.",
        "\n    sum_i * x_i    indented\n",
        r"| `weight`    | `1`       | Factor of \|x\|. |",
        "- Preset (--set method.preset=louder): weight=2.",
        "```yaml\nstudent:\n  like: teacher\n```",
    ],
)
def test_card_escapes_text_but_not_code(line):
    assert line in markdown_page([Example])


def test_show_prints_the_card_of_a_combination(command_line):
    code, out, _ = command_line("show", "kd+rkd")
    assert code == 0
    assert out.startswith("kd+rkd (method)\n\nThe sum of kd and rkd")
    assert "Needs a teacher and the teacher's classifier." in out
