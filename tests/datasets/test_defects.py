"""Datasets that are not as published: one clear sentence, before anything is trained."""

import os
import shutil

import pytest

from benchmark.data.check import check, remarks, unmatched_queries
from benchmark.errors import UserError


@pytest.fixture
def miniature(make):
    return make("market1501")


@pytest.fixture
def folder(miniature):
    return miniature.open().folder


def assert_defect(miniature, *parts: str) -> None:
    """Both the use of the dataset and its check report a defect with these parts."""
    with pytest.raises(UserError) as raised:
        _ = miniature.open().train
    report = check(miniature.open())
    assert not report.ok
    for part in parts:
        assert part in str(raised.value)
        assert any(part in defect for defect in report.defects)


class TestFiles:
    def test_missing_split(self, miniature, folder):
        shutil.rmtree(folder / "query")
        assert_defect(miniature, f"{folder} has no query")

    def test_split_in_another_case(self, miniature, folder):
        (folder / "query").rename(folder / "Query")
        assert_defect(miniature, f"{folder} has no query; did you mean Query? Rename it")

    def test_empty_folder(self, miniature, folder):
        shutil.rmtree(folder / "query")
        (folder / "query").mkdir()
        assert_defect(miniature, f"{folder / 'query'} holds no images")

    def test_folder_without_images(self, miniature, folder):
        for image in (folder / "query").glob("*.jpg"):
            image.unlink()
        assert_defect(miniature, f"{folder / 'query'} holds no images")

    def test_unreadable_folder(self, miniature, folder, monkeypatch):
        scandir = os.scandir

        def scandir_without_permission(path):  # patched, because root may read every folder
            if str(path).endswith("query"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr("os.scandir", scandir_without_permission)
        assert_defect(miniature, f"{folder / 'query'} cannot be listed: Permission denied")

    def test_file_instead_of_a_folder(self, miniature, folder):
        shutil.rmtree(folder / "query")
        (folder / "query").write_text("")
        assert_defect(miniature, "query cannot be listed: Not a directory")

    def test_broken_and_circular_links(self, miniature, folder):
        (folder / "query" / "0001_c2s1_001051_00.jpg").symlink_to("nowhere.jpg")
        (folder / "query" / "0001_c3s1_001051_00.jpg").symlink_to("0001_c3s1_001051_00.jpg")
        assert_defect(miniature, "cannot be followed")
        defects = " ".join(check(miniature.open()).defects)
        assert "No such file" in defects
        assert "Too many levels of symbolic links" in defects

    def test_link_to_an_image_is_an_image(self, miniature, folder, tmp_path):
        image = next((folder / "query").glob("*.jpg"))
        image.rename(tmp_path / "elsewhere.jpg")
        image.symlink_to(tmp_path / "elsewhere.jpg")
        assert image in {sample.path for sample in miniature.open().query}


class TestLabels:
    def test_single_camera(self, miniature, folder):
        for image in [*(folder / "bounding_box_test").glob("*.jpg"), *(folder / "query").glob("*.jpg")]:
            if "_c1" not in image.name:
                image.unlink()
        assert_defect(miniature, "no query has a correct match in the gallery: all images are from one camera")

    def test_matches_only_from_the_query_camera(self, miniature, folder):
        for image in (folder / "bounding_box_test").glob("0*_c[25]*.jpg"):
            if not image.name.startswith("0000"):
                image.unlink()
        assert_defect(miniature, "every match is from the query's camera, and such matches are ignored")

    def test_no_common_identity(self, miniature, folder):
        for image in (folder / "query").glob("*.jpg"):
            image.rename(image.with_name(f"09{image.name[2:]}"))
        assert_defect(miniature, "query and gallery have no identity in common")

    def test_identity_in_training_and_test(self, miniature, folder):
        image = next((folder / "bounding_box_train").glob("0007*.jpg"))
        shutil.copy(image, folder / "query" / image.name)
        assert_defect(miniature, "1 identity is in both training and test, such as 7")

    def test_query_without_a_match_is_noted(self, miniature, folder):
        for image in (folder / "bounding_box_test").glob("0003_c[25]*.jpg"):
            image.unlink()
        note = "query: 1 of 3 have no correct match in the gallery and are not scored"
        dataset = miniature.open()
        assert f"note: {note}" in remarks(dataset)
        assert note in check(dataset).notes
        assert unmatched_queries(dataset) == 1

    def test_identity_with_a_single_image_is_noted(self, miniature, folder):
        for image in (folder / "bounding_box_train").glob("0007_c[36]*.jpg"):
            image.unlink()
        note = "train: 1 of 4 identities have a single image, which is repeated within a batch"
        assert f"note: {note}" in remarks(miniature.open())


class TestReport:
    def test_shows_the_first_three_defects(self, miniature, folder):
        for number in range(9):
            (folder / "query" / f"{number}.jpg").write_bytes(b"")
        shown = str(check(miniature.open())).splitlines()
        assert sum(line.startswith("defect: ") and "is not named like" in line for line in shown) == 3
        with pytest.raises(
            UserError, match=r"is not named like .* \(and 8 more\): run `benchmark data check market1501`"
        ):
            _ = miniature.open().train

    def test_decoding_lists_every_broken_image(self, miniature, folder):
        images = sorted((folder / "bounding_box_train").glob("*.jpg"))
        images[0].write_bytes(b"")
        images[5].write_bytes(images[5].read_bytes()[:300])
        dataset = miniature.open()
        assert check(dataset).broken == ()
        report = check(dataset, decode=True)
        assert [line.split()[1] for line in report.broken] == [str(images[0]), str(images[5])]
        assert str(report).count("broken: image") == 2


class TestCommandLine:
    @pytest.mark.parametrize("options", [[], ["--decode"]])
    def test_check_prints_tree_counts_and_defects(self, miniature, folder, options, command_line):
        (folder / "query" / "0001.jpg").write_bytes(b"")
        code, out, err = command_line("data", "check", "market1501", *options, "--data-root", miniature.root)
        assert code == 1
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert "market1501/Market-1501-v15.09.15/" in lines
        assert "train images 12936 12" in lines
        assert "gallery cameras 6 4" in lines
        assert "ignored: gallery: 4 files: junk, identity -1" in lines
        assert f"defect: {folder / 'query' / '0001.jpg'} is not named like 0002_c1s1_000451_03.jpg" in lines
        assert len([line for line in lines if line.startswith("defect:")]) == 3
        assert "Traceback" not in err

    def test_run_stops_before_training(self, miniature, folder, small, tmp_path, monkeypatch, command_line):
        shutil.rmtree(folder / "query")
        monkeypatch.chdir(tmp_path)
        arguments = ["run", "--method", "kd", "--dataset", "market1501", "--data-root", miniature.root]
        code, _, err = command_line(*arguments, *(part for setting in small for part in ("--set", setting)))
        assert code == 2
        assert err.splitlines()[-1] == (
            f"benchmark: {folder} has no query: run `benchmark data check market1501` for details"
        )


@pytest.mark.parametrize("name", ["cub200", "sop", "vehicleid"])
def test_pipe_in_place_of_a_list_is_not_read(make, name):
    miniature = make(name)
    for path in sorted(miniature.open().folder.rglob("*.txt")):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(UserError, match=r"\.txt is not a regular file"):
        _ = miniature.open().train
