import shutil

import pytest

from benchmark.errors import UserError
from benchmark.results.store import add_record, load_records


def test_names(record, tmp_path):
    student, teacher = record("kd", seed=2), record("none", role="teacher")
    assert add_record(student, tmp_path).name == f"glyphs-kd-seed2-{student.id}.json"
    assert add_record(teacher, tmp_path).name == f"glyphs-teacher-seed0-{teacher.id}.json"


def test_sorted_by_dataset_method_seed(record, tmp_path):
    for dataset, method, seed in [("veri", "cdd", 0), ("glyphs", "kd", 10), ("glyphs", "kd", 2), ("glyphs", "cdd", 5)]:
        add_record(record(method, dataset=dataset, seed=seed), tmp_path)
    found = [(each.dataset, each.method, each.seed) for each in load_records(tmp_path)]
    assert found == [("glyphs", "cdd", 5), ("glyphs", "kd", 2), ("glyphs", "kd", 10), ("veri", "cdd", 0)]


def test_no_folder_holds_no_records(tmp_path):
    assert load_records(tmp_path / "absent") == []


def test_a_rerun_replaces_its_record(record, tmp_path):
    add_record(record(mAP=0.5), tmp_path)
    add_record(record(mAP=0.6), tmp_path)
    assert [each.scores.symmetric.mAP for each in load_records(tmp_path)] == [0.6]


def test_two_records_with_one_id_are_refused(record, tmp_path):
    path = add_record(record(), tmp_path)
    shutil.copy(path, tmp_path / "z-copy.json")
    with pytest.raises(UserError, match=rf"z-copy\.json: id {record().id} is already that of {path.name}"):
        load_records(tmp_path)


def test_a_record_under_another_name_is_refused(record, tmp_path):
    record().write(tmp_path / "mine.json")
    with pytest.raises(UserError, match=rf"mine\.json: holds the record glyphs-cdd-seed0-{record().id}\.json; rename"):
        load_records(tmp_path)


def test_unfinished_files_of_another_process_are_passed_over(record, tmp_path):
    add_record(record(), tmp_path)
    (tmp_path / ".glyphs-kd.json.x.json").write_text("{")
    assert len(load_records(tmp_path)) == 1
