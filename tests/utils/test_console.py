import io

import pytest
from rich.table import Table

from benchmark.utils.console import Console, complain, echo, notify

HOSTILE = "\x1b]0;title\x1b[2J[bold]x[/bold]\u202e"
SHOWN = r"\x1b]0;title\x1b[2J[bold]x[/bold]\u202e"


@pytest.mark.parametrize("terminal", [True, False])
def test_texts_do_not_control_the_terminal(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, highlight=False)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE, style="red")
    console.print(HOSTILE, table, f"[{HOSTILE}")
    output = console.file.getvalue()
    assert "\x1b[2J" not in output and "\u202e" not in output
    assert output.count("[bold]x[/bold]") == 5
    assert ("\x1b[31m" in output) == terminal  # styles work


@pytest.mark.parametrize("columns", ["0", "1", "40"])
def test_narrow_terminals_lose_no_digits(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    table = Table(*(f"column {number}" for number in range(9)))
    table.add_row(*(f"{number}.23456789" for number in range(9)))
    Console(soft_wrap=True).print(table)
    output = capsys.readouterr().out
    assert all(f"{number}.23456789" in output for number in range(9)) and "…" not in output


def test_results_and_messages_are_escaped(capsys):
    echo(f"one {HOSTILE}\ntwo")
    notify(HOSTILE)
    complain(HOSTILE)
    captured = capsys.readouterr()
    assert captured.out == f"one {SHOWN}\ntwo\n"
    assert captured.err == f"{SHOWN}\nbenchmark: {SHOWN}\n"
