import shutil

import pytest

from benchmark.errors import UserError
from benchmark.results.store import add_record, load_records


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


def test_ignores_unfinished_files(record, tmp_path):
    add_record(record(), tmp_path)
    (tmp_path / ".glyphs-kd.json.x.json").write_text("{")
    assert len(load_records(tmp_path)) == 1
