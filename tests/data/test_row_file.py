"""Files of rows: continued after a kill, refused if damaged."""

import pickle
import re

import pytest
import torch

from benchmark.data.row_file import BLOCKS_FILE, DESCRIPTION_FILE, ROWS_FILE, RowFile, RowSize
from benchmark.errors import UserError

SIZE = RowSize(rows=10, row_bytes=3, block=4)
ROWS = torch.arange(30, dtype=torch.uint8).view(10, 3)


@pytest.fixture
def opened(tmp_path):
    """`opened()` opens the file, `opened(2)` after writing the next two blocks."""

    def open_file(blocks: int = 0) -> RowFile:
        file = RowFile(tmp_path / "rows", {"of": "a test"}, SIZE)
        for rows in file.missing[:blocks]:
            file.append(ROWS[rows.start : rows.stop], seconds=0.5)
        return file

    return open_file


def test_rows_in_any_order(opened):
    file = opened(3)
    numbers = torch.tensor([9, 0, 4, 0])
    for each in (file, opened(), pickle.loads(pickle.dumps(file))):
        each.verify()
        assert each.is_complete
        assert each.seconds == 1.5
        assert torch.equal(each.read(numbers), ROWS[numbers])


@pytest.mark.parametrize("name", [ROWS_FILE, BLOCKS_FILE])
def test_continues_after_a_kill(opened, tmp_path, name):
    """What a killed process has written of a block does not count."""
    opened(2)
    with (tmp_path / "rows" / name).open("ab") as file:
        file.write(b'{"sha')
    continued = opened()
    assert (continued.complete_rows, continued.missing) == (8, [range(8, 10)])
    continued.verify()
    opened(1)
    complete = opened()
    complete.verify()
    assert torch.equal(complete.read(torch.arange(10)), ROWS)
    assert (tmp_path / "rows" / ROWS_FILE).stat().st_size == 30


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / ROWS_FILE).write_bytes(bytes(30)), "rows from 0 do not match their hash"),
        (lambda folder: (folder / ROWS_FILE).write_bytes(bytes(7)), "has 7 bytes, expected 30"),
        (lambda folder: (folder / ROWS_FILE).unlink(), "has 0 bytes, expected 30"),
        (lambda folder: (folder / BLOCKS_FILE).write_text("[]\n"), "has an invalid line"),
        (
            lambda folder: (folder / BLOCKS_FILE).write_text(4 * f'{{"sha256":"{64 * "0"}","seconds":0}}\n'),
            "3 that belong",
        ),
        (lambda folder: (folder / DESCRIPTION_FILE).write_text("{}"), "describes other content"),
    ],
)
def test_damage_is_refused(opened, tmp_path, damage, reason):
    opened(3)
    damage(tmp_path / "rows")
    with pytest.raises(UserError, match=f"{re.escape(reason)}.*delete the folder to create it again"):
        opened().verify()


def test_full_disk(opened, tmp_path, full_disk):
    """The blocks that were complete stay."""
    opened(1)
    with full_disk(20), pytest.raises(UserError, match=r"free space, or make the folder writable"):
        opened(1)
    assert opened().complete_rows == 4
    assert opened(2).is_complete
