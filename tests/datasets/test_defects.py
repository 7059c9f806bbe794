"""Sets that are not as published: one clear sentence, before anything is trained."""

import shutil
import subprocess
import sys

import pytest

from benchmark.data.check import check, warnings
from benchmark.errors import UserError


@pytest.fixture
def market(make):
    """Market-1501 in miniature, and its folder."""
    made = make("market1501")
    return made, made.open().folder


def refused(made, *parts: str) -> None:
    """Neither usable nor all right; both say why."""
    with pytest.raises(UserError) as raised:
        _ = made.open().train
    report = check(made.open())
    assert not report.ok
    for part in parts:
        assert part in str(raised.value)
        assert any(part in difference for difference in report.differences)


def test_a_missing_split(market):
    made, folder = market
    shutil.rmtree(folder / "query")
    refused(made, f"{folder} has no query")


def test_an_empty_folder(market):
    made, folder = market
    shutil.rmtree(folder / "query")
    (folder / "query").mkdir()
    refused(made, f"{folder / 'query'} holds no images")


def test_a_folder_of_nothing_but_other_files(market):
    made, folder = market
    for image in (folder / "query").glob("*.jpg"):
        image.unlink()
    refused(made, f"{folder / 'query'} holds no images")


def test_a_folder_that_may_not_be_read(market, monkeypatch):
    made, folder = market
    scandir = sys.modules["os"].scandir

    def forbidden(path):  # tests may run as root, who may read everything
        if str(path).endswith("query"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", forbidden)
    refused(made, f"{folder / 'query'} cannot be listed: Permission denied")


def test_a_file_in_the_place_of_a_folder(market):
    made, folder = market
    shutil.rmtree(folder / "query")
    (folder / "query").write_text("")
    refused(made, "query cannot be listed: Not a directory")


def test_links_that_lead_nowhere_or_in_a_circle(market):
    made, folder = market
    (folder / "query" / "0001_c2s1_001051_00.jpg").symlink_to("nowhere.jpg")
    (folder / "query" / "0001_c3s1_001051_00.jpg").symlink_to("0001_c3s1_001051_00.jpg")
    refused(made, "cannot be followed")
    said = " ".join(check(made.open()).differences)
    assert "No such file" in said
    assert "Too many levels of symbolic links" in said


def test_a_linked_image_is_an_image(market, tmp_path):
    made, folder = market
    image = next((folder / "query").glob("*.jpg"))
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    assert image in {sample.path for sample in made.open().query}


def test_one_camera_only(market):
    made, folder = market
    for image in [*(folder / "bounding_box_test").glob("*.jpg"), *(folder / "query").glob("*.jpg")]:
        if "_c1" not in image.name:
            image.unlink()
    refused(made, "no query has a correct answer in the gallery: all images are from one camera")


def test_every_answer_from_the_query_s_own_camera(market):
    made, folder = market
    for image in (folder / "bounding_box_test").glob("0*_c[25]*.jpg"):
        if not image.name.startswith("0000"):
            image.unlink()
    refused(made, "every answer is from its query's own camera, and such answers do not count")


def test_no_identity_in_both_lists(market):
    made, folder = market
    for image in (folder / "query").glob("*.jpg"):
        image.rename(image.with_name(f"09{image.name[2:]}"))
    refused(made, "no identity is in both lists")


def test_an_identity_on_both_sides(market):
    made, folder = market
    image = next((folder / "bounding_box_train").glob("0007*.jpg"))
    shutil.copy(image, folder / "query" / image.name)
    refused(made, "1 identity is in both training and test, such as 7")


def test_a_query_without_an_answer_is_counted_and_does_not_count(market):
    made, folder = market
    for image in (folder / "bounding_box_test").glob("0003_c[25]*.jpg"):
        image.unlink()
    said = "query: 1 of 3 have no correct answer in the gallery and will not count"
    assert f"note: {said}" in warnings(made.open())
    assert said in check(made.open()).notes
    assert made.open().unmatched() == 1


def test_an_identity_with_one_image_is_told(market):
    made, folder = market
    for image in (folder / "bounding_box_train").glob("0007_c[36]*.jpg"):
        image.unlink()
    said = "train: 1 of 4 identities have a single image, which fills their batches alone"
    assert f"note: {said}" in warnings(made.open())


def test_of_many_defects_the_first_three_are_shown(market):
    made, folder = market
    for number in range(9):
        (folder / "query" / f"{number}.jpg").write_bytes(b"")
    report = check(made.open())
    assert len(report.differences) == 3
    with pytest.raises(UserError, match=r"is not named like .* \(and 8 more\): `benchmark data check market1501`"):
        _ = made.open().train


def test_decoding_lists_every_broken_image(market, picture):
    made, folder = market
    images = sorted((folder / "bounding_box_train").glob("*.jpg"))
    images[0].write_bytes(b"")
    images[5].write_bytes(images[5].read_bytes()[:300])
    dataset = made.open()
    assert check(dataset).broken == ()
    report = check(dataset, decode=True)
    assert [line.split()[1] for line in report.broken] == [str(images[0]), str(images[5])]
    assert str(report).count("broken: image") == 2


@pytest.mark.parametrize("command", [["data", "check", "market1501"], ["data", "check", "market1501", "--decode"]])
def test_the_command_prints_tree_counts_and_differences(market, command):
    made, folder = market
    (folder / "query" / "0001.jpg").write_bytes(b"")
    run = [sys.executable, "-m", "benchmark", *command, "--data-root", str(made.root)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "market1501/Market-1501-v15.09.15/" in lines
    assert "train images 12936 12" in lines
    assert "gallery cameras 6 4" in lines
    assert "note: gallery: 4 files skipped: junk, identity -1" in lines
    assert f"defect: {folder / 'query' / '0001.jpg'} is not named like 0002_c1s1_000451_03.jpg" in lines
    assert len([line for line in lines if line.startswith("defect:")]) == 3
    assert "Traceback" not in done.stderr


def test_a_run_refuses_before_it_trains(market, tmp_path):
    made, folder = market
    shutil.rmtree(folder / "query")
    run = [sys.executable, "-m", "benchmark", "run", "--method", "kd", "--dataset", "market1501"]
    done = subprocess.run([*run, "--data-root", str(made.root)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"benchmark: {folder} has no query: `benchmark data check market1501` says what is expected"
    )
