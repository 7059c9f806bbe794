"""Published teachers: archives, names, and runs that use one."""

import shutil
import zipfile

import pytest

from benchmark.errors import UserError
from benchmark.experiment import published
from benchmark.experiment.published import FILES, PREFIX, add, content_hash, publish, teacher_path


@pytest.fixture
def archive(teacher, tmp_path, monkeypatch):
    """The teacher of the finished run as an archive, its name, and an empty data root for added teachers."""
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    return tmp_path / "teacher.zip", publish(teacher, tmp_path / "teacher.zip")


def test_archive_has_no_state_of_the_training(archive, teacher):
    path, _ = archive
    with zipfile.ZipFile(path) as opened:
        assert sorted(opened.namelist()) == sorted(FILES)
        assert opened.getinfo(FILES[-1]).file_size < (teacher / FILES[-1]).stat().st_size


def test_name_is_that_of_the_content(archive, teacher, tmp_path):
    path, name = archive
    assert publish(teacher, tmp_path / "again.zip") == name
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()
    assert add(path, name) == name
    assert content_hash(teacher_path(name)) == name
    assert [each for each, _ in published.published_teachers() if each == name] == [name]
    assert add(path) == name, "adding it again changes nothing"


@pytest.mark.parametrize("name", FILES)
def test_changed_files_are_refused(archive, name):
    path, teacher = archive
    add(path)
    file = teacher_path(teacher) / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match="has changed: its content is sha256:"):
        teacher_path(teacher)


def test_another_teacher_than_expected_is_refused(archive, tmp_path):
    with pytest.raises(UserError, match=r"teacher\.zip is sha256:"):
        add(archive[0], PREFIX + "0" * 64)
    assert not (tmp_path / "data" / "teachers").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive"])
def test_damaged_archives_are_refused(tmp_path, content):
    (tmp_path / "teacher.zip").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        add(tmp_path / "teacher.zip")


def test_incomplete_archives_are_refused(archive, tmp_path):
    with zipfile.ZipFile(archive[0]) as opened, zipfile.ZipFile(tmp_path / "less.zip", "w") as less:
        less.writestr("record.json", opened.read("record.json"))
    with pytest.raises(UserError, match=r"lacks recipe\.yaml, inputs\.json, student\.pt"):
        add(tmp_path / "less.zip")


@pytest.mark.parametrize("name", ["sha256:", "sha256:12", "sha256:" + "g" * 64, "sha256:" + "A" * 64])
def test_malformed_names_are_refused(name):
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        teacher_path(name)


def test_unknown_names_are_refused(archive):
    with pytest.raises(UserError, match=f"no published teacher {archive[1]}: add it with `benchmark teacher add"):
        teacher_path(archive[1])


def test_commands(command_line, archive, teacher, tmp_path, monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    done = command_line("teacher", "publish", teacher, "--output", tmp_path / "t.zip")
    assert done.code == 0 and f"--teacher {archive[1]}" in done.out
    assert command_line("teacher", "add", tmp_path / "t.zip", "--name", archive[1]).code == 0
    assert archive[1] in command_line("teacher", "list").out
    for source, message in (("missing.zip", "not a file"), ("hf-hub:owner/missing", "could not be downloaded")):
        done = command_line("teacher", "add", source)
        assert done.code == 2 and message in done.err


@pytest.mark.slow
def test_runs_with_a_published_teacher(archive, command, command_line, teacher, tiny_config, data_root, tmp_path):
    """The teacher is not trained, its record is that of the publisher, and the recipe names it."""
    path, name = archive
    add(path)
    root = ("--data-root", data_root, "--work-dir", tmp_path / "runs", "--leaderboards", tmp_path / "boards")
    options = ("--config", tiny_config, "--device", "cpu", *root)
    done = command_line("run", "--method", "kd", "--dataset", "glyphs", "--teacher", name, *options)
    assert done.code == 0, done.err
    assert not (tmp_path / "runs" / "glyphs" / "teacher").exists()
    assert f"the teacher is published as {name[:19]}" in done.err
    (folder,) = (tmp_path / "runs" / "glyphs" / "kd").iterdir()
    assert f"checkpoint: {name}" in (folder / "recipe.yaml").read_text()
    assert command_line("evaluate", "--run", folder, "--gallery", "teacher", *root[:2]).code == 0
    assert command_line("leaderboard", "--check", "--leaderboards", tmp_path / "boards").code == 0
    shutil.rmtree(tmp_path / "data")
    done = command_line("evaluate", "--run", folder, "--gallery", "teacher", *root[:2])
    assert done.code == 2 and "no published teacher" in done.err
