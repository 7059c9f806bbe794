"""`benchmark inspect`."""

import re

import pytest
from PIL import Image


@pytest.fixture
def inspect(command_line, data_root):
    """`inspect(folder)` runs `benchmark inspect` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return command_line("inspect", *arguments, "--device", "cpu", "--data-root", data_root)

    return run


def test_page_and_image(inspect, student, teacher, tmp_path):
    page, image = tmp_path / "new" / "page.html", tmp_path / "new" / "page.png"
    code, out, err = inspect(student, "--worst", 3, "--output", page)
    assert code == 0, err
    assert out.split() == [str(page), str(image)]
    assert "cdd on glyphs" in page.read_text() and "teacher" in page.read_text()
    with Image.open(image) as sheet:
        assert sheet.width > 400
    assert inspect(teacher, "--worst", 3, "--output", tmp_path / "teacher.html")[0] == 0
    assert "teacher on glyphs" in (tmp_path / "teacher.html").read_text()


def test_unfinished_run(inspect, student, tmp_path):
    (tmp_path / "recipe.yaml").write_text((student / "recipe.yaml").read_text())
    code, _, err = inspect(tmp_path)
    assert code == 2 and "has an unfinished run: it has no student.pt" in err


def test_missing_teacher(inspect, student, tmp_path):
    alone = tmp_path / "runs" / "glyphs" / "cdd" / student.name
    alone.mkdir(parents=True)
    for name in ("recipe.yaml", "student.pt"):
        (alone / name).write_bytes((student / name).read_bytes())
    code, _, err = inspect(alone)
    assert code == 2 and re.search(r"the teacher of .* is missing: there is no .*teacher/seed0", err)


def test_page_of_another_type(inspect, student):
    code, _, err = inspect(student, "--output", "page.txt")
    assert code == 2 and "page.txt" in err and ".html" in err
