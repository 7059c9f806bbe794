import os
import shutil

import pytest

from benchmark.errors import UserError
from benchmark.results.store import add_record, load_records, other_files


def test_file_names(record, tmp_path):
    student, teacher = record("kd", seed=2), record("none", role="teacher")
    assert add_record(student, tmp_path).name == f"glyphs-kd-seed2-{student.id}.json"
    assert add_record(teacher, tmp_path).name == f"glyphs-teacher-seed0-{teacher.id}.json"


def test_sorts_by_dataset_method_and_seed(record, tmp_path):
    for dataset, method, seed in [("veri", "cdd", 0), ("glyphs", "kd", 10), ("glyphs", "kd", 2), ("glyphs", "cdd", 5)]:
        add_record(record(method, dataset=dataset, seed=seed), tmp_path)
    loaded = [(each.dataset, each.method, each.seed) for each in load_records(tmp_path)]
    assert loaded == [("glyphs", "cdd", 5), ("glyphs", "kd", 2), ("glyphs", "kd", 10), ("veri", "cdd", 0)]


def test_absent_folder_is_empty(tmp_path):
    assert load_records(tmp_path / "absent") == []


def test_rerun_replaces_its_record(record, tmp_path):
    add_record(record(mAP=0.5), tmp_path)
    add_record(record(mAP=0.6), tmp_path)
    assert [each.scores.symmetric.mAP for each in load_records(tmp_path)] == [0.6]


def test_rejects_two_records_with_one_id(record, tmp_path):
    path = add_record(record(), tmp_path)
    shutil.copy(path, tmp_path / "z-copy.json")
    with pytest.raises(UserError, match=rf"z-copy\.json: has the same id, {record().id}, as {path.name}; remove one"):
        load_records(tmp_path)


def test_rejects_a_record_under_another_name(record, tmp_path):
    record().write(tmp_path / "mine.json")
    with pytest.raises(UserError, match=rf"mine\.json: .* must be glyphs-cdd-seed0-{record().id}\.json; rename"):
        load_records(tmp_path)


def test_a_copy_does_not_hide_the_record(record, tmp_path):
    path = add_record(record(), tmp_path)
    shutil.copy(path, tmp_path / "a-copy.json")
    with pytest.raises(UserError) as refusal:
        load_records(tmp_path)
    assert [line.split(":")[0] for line in str(refusal.value).splitlines()] == [str(tmp_path / "a-copy.json")]


def test_names_every_bad_record_in_a_line(record, edit, tmp_path):
    good = add_record(record(), tmp_path)
    for number in range(20):
        (tmp_path / f"bad{number:02}.json").write_text("{" if number % 2 else '{"schema_version": 1}')
    (tmp_path / "two\nlines.json").touch()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to("link.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError) as refusal:
        load_records(tmp_path)
    lines = str(refusal.value).splitlines()
    bad = sorted(path for path in tmp_path.iterdir() if path != good)
    assert [line.split(": ")[0] for line in lines] == [str(path).replace("\n", r"\n") for path in bad]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"dataset": "cub200-closed"}, {"dataset": "cub200", "variant": {"dataset.split": "closed"}}),
        ({"dataset": "Cub200"}, {"dataset": "cub200"}),
    ],
)
def test_two_benchmarks_do_not_share_a_page(record, tmp_path, first, second):
    for method, changes in (("kd", first), ("rkd", second)):
        add_record(record(method).model_copy(update=changes), tmp_path)
    with pytest.raises(UserError, match="has the same page as that of"):
        load_records(tmp_path)


def test_lists_other_files(record, tmp_path):
    add_record(record(), tmp_path)
    for name in ("notes.txt", "x.json.bak", ".lock", ".hidden.json"):
        (tmp_path / name).touch()
    assert [path.name for path in other_files(tmp_path)] == ["notes.txt", "x.json.bak"]
    assert other_files(tmp_path / "absent") == []


def test_ignores_unfinished_files(record, tmp_path):
    add_record(record(), tmp_path)
    (tmp_path / ".glyphs-kd.json.x.json").write_text("{")
    assert len(load_records(tmp_path)) == 1
