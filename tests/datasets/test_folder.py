"""The user's own images, in folders and in tables."""

import os
import shutil
from collections.abc import Sequence

import pytest
from PIL import Image

from benchmark.data.check import check
from benchmark.datasets.folder import Folder
from benchmark.errors import UserError
from benchmark.experiment.folders import resolved
from benchmark.recipe import compose


def write_miniature(root, write_image) -> None:
    for split, names in (
        ("train", ("ada", "bob", "cy", "dee")),
        ("query", ("eve", "fay")),
        ("gallery", ("eve", "fay")),
    ):
        for name in names:
            for image in range(3):
                write_image(root / "folder" / split / name / f"{split}{image}.jpg", ord(name[0]))
    (root / "folder" / "notes.txt").write_text("mine")


@pytest.fixture
def table(tmp_path, write_image):
    """`table(rows)` writes a CSV file and its images, and opens the dataset."""

    def write(*rows: str, header: str = "path,identity,camera,split", missing: Sequence[str] = ()) -> Folder:
        file = tmp_path / "mine.csv"
        file.write_text("\n".join([header, *rows]), encoding="utf-8-sig")
        for row in rows:
            path = row.split(",")[0].strip()
            if path.endswith(".heic"):
                (tmp_path / path).parent.mkdir(exist_ok=True)
                (tmp_path / path).write_bytes(b"")
            elif path and path not in missing:
                write_image(tmp_path / path, len(row))
        return Folder(tmp_path / "elsewhere", path=str(file))

    return write


COMPLETE = ("a/1.jpg,ada,door,train", "a/2.jpg,bob,hall,train", "b/3.jpg,cy,door,query", "b/4.jpg,cy,hall,gallery")


def test_folders_with_query_and_gallery(make):
    dataset = make("folder").open()
    assert [len(dataset.train), len(dataset.query), len(dataset.gallery)] == [12, 6, 6]
    assert not dataset.protocol.query_in_gallery
    assert not dataset.protocol.camera_rule


def test_folders_with_test(make):
    miniature = make("folder")
    folder = miniature.open().folder
    (folder / "query").rename(folder / "test")
    (folder / "gallery" / "fay").rename(folder / "test" / "gus")
    for image in (folder / "gallery").rglob("*.jpg"):
        image.unlink()
    dataset = miniature.open()
    assert dataset.protocol.query_in_gallery
    assert len(dataset.query) == len(dataset.gallery) == 9


def test_folders_without_splits(tmp_path, write_image):
    for name in ("10", "9", "1", "3", "2"):
        for image in range(2):
            write_image(tmp_path / "own" / name / f"{image}.png", int(name))
    dataset = Folder(tmp_path, path=str(tmp_path / "own"))
    assert {sample.identity for sample in dataset.train} == {1, 2, 3}
    assert {sample.identity for sample in dataset.query} == {9, 10}
    assert dataset.protocol.query_in_gallery
    assert dataset.non_default_options() == {"label": "own"}


def test_table_with_cameras(table):
    dataset = table(*COMPLETE)
    assert [(sample.path.name, sample.identity, sample.camera) for sample in dataset.train] == [
        ("1.jpg", 0, 0),
        ("2.jpg", 1, 1),
    ]
    assert [(sample.identity, sample.camera) for sample in (*dataset.query, *dataset.gallery)] == [(2, 0), (2, 1)]
    assert dataset.protocol.camera_rule
    assert not dataset.protocol.query_in_gallery


def test_table_with_required_columns_only(table):
    dataset = table("1.jpg,7", "2.jpg,7", "3.jpg,8", "4.jpg,8", header="path,identity")
    assert [(sample.path.name, sample.identity) for sample in dataset.train] == [("1.jpg", 7), ("2.jpg", 7)]
    assert [sample.identity for sample in dataset.query] == [8, 8]
    assert not dataset.protocol.camera_rule


def test_single_camera(table):
    rows = [row.replace("hall", "door") for row in COMPLETE]
    assert not table(*rows).protocol.camera_rule
    rows = [*COMPLETE[:3], "b/4.jpg,cy,door,gallery"]
    with pytest.raises(UserError, match="all images are from one camera"):
        _ = table(*rows).train


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c/5.jpg,,door,train", "line 6: the identity is missing"),
        (",dee,door,train", "line 6: the path is missing"),
        ("c/5.jpg,  ,door,train", "line 6: the identity is missing"),
        ("c/5.jpg,dee,door,trian", "line 6: unknown split 'trian'; did you mean 'train'?"),
        ("c/5.jpg,dee,door,probe", "line 6: unknown split 'probe'; did you mean 'query'?"),
        ("c/5.jpg,dee,door,0", "line 6: unknown split '0'; the splits are train, query, gallery, test."),
        ("C/5.JPG,dee,door,train", "line 6: {folder}/C/5.JPG does not exist"),
        ("C:\\c\\6.jpg,dee,door,train", "does not exist: use a path relative to the table"),
        ("c/6.heic,dee,door,train", "line 6: c/6.heic is in a format that is not read: convert it to JPEG or PNG"),
        ("c/5.jpg,dee,door,test", "some images are in test, others in query or gallery"),
        ("c/5.jpg,dee,door,", "c/5.jpg has no split, but other images have one"),
        ("c/6.jpg,dee,door,train", "line 6: {folder}/c/6.jpg does not exist"),
    ],
)
def test_defects_of_a_row(table, tmp_path, row, message):
    dataset = table(*COMPLETE, row, missing=("c/6.jpg", "C/5.JPG", "C:\\c\\6.jpg"))
    assert message.format(folder=tmp_path) in check(dataset).defects[0]


def test_missing_column(table):
    with pytest.raises(
        UserError, match=r"has no column 'identity'; did you mean 'identities'\? It has: path, identities\."
    ):
        table("1.jpg,7", header="path,identities")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "does not exist"),
        ("empty.csv", "", "is empty: the first line must name the columns path, identity, camera, split"),
        ("semicolons.csv", "path;identity\n1.jpg;7\n", "seems to use semicolons: separate the columns by commas"),
        ("tabs.csv", "path\tidentity\n1.jpg\t7\n", "seems to use tabs: separate the columns by commas"),
        ("utf16.csv", "ÿþp\0", "is text in UTF-16: save it as UTF-8"),
        (
            "quotes.csv",
            'path,identity\n"1.jpg,7\n2.jpg,8\n',
            "in line 2, a value has a quotation mark that does not end it: enclose",
        ),
        ("headless.csv", "1.jpg,7\n2.jpg,8\n", "The first line must name the columns path, identity"),
        ("table.txt", "path,identity\n1.jpg,7\n", "is neither a folder nor a table: the name of a table ends in .csv"),
        ("latin.csv", "path,identity\n1.jpg,Zoë\n", "is not text in UTF-8"),
        ("quote.csv", 'path,identity\n1.jpg,"a"b\n2.jpg,8\n', "in line 2, a value has a quotation mark"),
        ("excel.csv", "PK\3\4\x99", "is a workbook or an archive, not text: export it as text in UTF-8"),
        ("old.csv", "\xd0\xcf\x11\xe0\xa1", "is a workbook or an archive, not text"),
    ],
)
def test_rejects_other_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=message) as raised:
        _ = Folder(tmp_path, path=str(path)).train
    assert str(path) in str(raised.value)


def test_names_of_identities_and_cameras(table):
    dataset = table(*COMPLETE)
    sample = dataset.query[0]
    assert (dataset.identity_name(sample.identity), dataset.camera_name(sample.camera)) == ("cy", "door")
    assert any("such as cy" in line for line in check(table(*COMPLETE, "c/5.jpg,cy,door,train")).defects)


def test_check_without_published_sizes(table):
    report = str(check(table(*COMPLETE)))
    assert "not published" not in report
    assert report.endswith("no defects")


def test_error_names_the_check_of_the_same_images(table, tmp_path):
    with pytest.raises(
        UserError, match=r"run `benchmark data check folder --set path=.*\.csv --set label=mine` for details"
    ):
        _ = table(*COMPLETE, "c/5.jpg,cy,door,train").train


def test_image_outside_identity_folders(make, write_image):
    miniature = make("folder")
    write_image(miniature.open().folder / "train" / "stray.jpg")
    assert "stray.jpg is not in the folder of an identity" in check(miniature.open()).defects[0]


def test_closed_set_allows_shared_identities(table):
    rows = [row.replace("ada", "cy") for row in COMPLETE]
    with pytest.raises(UserError, match="in both training and test"):
        _ = table(*rows).train
    assert len(Folder(table(*rows).root, path=table(*rows).path, closed_set=True).train) == 2


def test_circular_links(make):
    miniature = make("folder")
    folder = miniature.open().folder
    (folder / "train" / "ada" / "again").symlink_to(folder / "train")
    (folder / "train" / "bob" / "a.jpg").symlink_to("b.jpg")
    (folder / "train" / "bob" / "b.jpg").symlink_to("a.jpg")
    defects = check(miniature.open()).defects
    assert any("is a link to a folder that contains it" in defect for defect in defects)
    assert any("a.jpg cannot be followed" in defect for defect in defects)


def test_missing_split(make):
    miniature = make("folder")
    folder = miniature.open().folder
    shutil.rmtree(folder / "query")
    shutil.rmtree(folder / "gallery")
    (folder / "notes.txt").unlink()
    with pytest.raises(UserError, match="there are no query images"):
        _ = miniature.open().train


def test_single_wrapping_folder_is_entered(make):
    miniature = make("folder")
    folder = miniature.open().folder
    before = len(miniature.open().train)
    (folder / "notes.txt").unlink()
    folder.rename(miniature.root / "wrapped")
    folder.mkdir()
    (miniature.root / "wrapped").rename(folder / "official")
    assert len(miniature.open().train) == before


def test_single_identity_or_circular_link_is_not_entered(tmp_path, write_image):
    write_image(tmp_path / "own" / "alice" / "1.jpg")
    assert [row.identity for row in Folder(tmp_path, path=str(tmp_path / "own"))._images] == ["alice"]
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "again").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="again is a link to a folder that contains it"):
        _ = Folder(tmp_path, path=str(tmp_path / "circle")).train


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "a/1.jpg,eve,door,gallery",
            "line 6, a/1.jpg: this file is also listed in line 2, a/1.jpg, as 'ada' instead of 'eve'",
        ),
        ("c/5.jpg,dee,,train", "c/5.jpg has no camera, but other images have one"),
        ("c/5.jpg,dee,door,train,more", "line 6: there are more values than columns"),
    ],
)
def test_contradictory_rows(table, row, message):
    assert any(message in defect for defect in check(table(*COMPLETE, row)).defects)


def test_numbers_too_large_for_identities_are_names(table):
    rows = [f"{number}.jpg,{10**30 + number // 2}" for number in range(4)]
    assert {sample.identity for sample in table(*rows, header="path,identity").query} == {1}


class TestColumns:
    """Columns are never left out in silence if they may be meant for one that is missing."""

    @pytest.mark.parametrize(
        "header",
        [
            "Path,IDENTITY,Camera,Split",
            "path, identity,camera ,split\t",
            "\ufeffpath,identity,camera,split",
            "path,identity,\xa0camera\u200b,\uff53plit",
        ],
    )
    def test_case_and_spaces_do_not_matter(self, table, header):
        dataset = table(*COMPLETE, header=header)
        assert dataset.protocol == table(*COMPLETE).protocol
        assert dataset.query == table(*COMPLETE).query

    def test_changed_names_are_reported(self, table):
        reading = table(*COMPLETE, header="path,identity,Camera ,split").reading()
        assert reading.read[0] == "table mine.csv, columns path, identity, camera (written 'Camera '), split"

    @pytest.mark.parametrize(
        ("camera", "split", "message"),
        [
            ("camid", "split", "has no column 'camera', but a column 'camid'; did you mean 'camera'"),
            ("cam", "split", "a column 'cam'; did you mean 'camera'"),
            ("Camera ID", "split", "a column 'Camera ID'; did you mean 'camera'"),
            ("camrea", "split", "a column 'camrea'; did you mean 'camera'"),
            ("Kamera-Nr", "split", "a column 'Kamera-Nr'; did you mean 'camera'"),
            ("camera", "subset", "has no column 'split', but a column 'subset'; did you mean 'split'"),
            ("camera", "splits", "a column 'splits'; did you mean 'split'"),
            ("camera", "purpose", "a column 'purpose'; did you mean 'split'"),
        ],
    )
    def test_near_miss_of_an_optional_column(self, table, camera, split, message):
        with pytest.raises(UserError) as raised:
            table(*COMPLETE, header=f"path,identity,{camera},{split}")
        assert message in str(raised.value)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("path,pid", "has no column 'identity'; did you mean 'pid'"),
            ("id,label,path", "has no column 'identity'; did you mean 'label'"),
            ("file_name,identity", "has no column 'path'; did you mean 'file_name'"),
            ("'path',identity", "has no column 'path'; did you mean"),
            ("path,identity,path", "has 2 columns 'path': keep one"),
            ("path,identity,camera,Camera", "has 2 columns 'camera'"),
        ],
    )
    def test_near_miss_of_a_required_column(self, table, header, message):
        with pytest.raises(UserError) as raised:
            table("1.jpg,7,8,9", header=header)
        assert message in str(raised.value)

    @pytest.mark.parametrize("values", ["1000", ["True", "False", "False", "False"], ["yes", "no", "no", ""]])
    @pytest.mark.parametrize("name", ["is_train", "Train", "in test set"])
    def test_flag_of_a_split(self, table, name, values):
        rows = [f"{row.rpartition(',')[0]},{value}" for row, value in zip(COMPLETE, values, strict=True)]
        with pytest.raises(UserError, match=f"a column '{name}'; did you mean 'split'"):
            table(*rows, header=f"path,identity,camera,{name}")
        rows = [f"{row.rpartition(',')[0]},0.5" for row in COMPLETE]
        assert table(*rows, header=f"path,identity,camera,{name}").reading().ignored  # as of a score

    def test_other_columns_are_reported_as_ignored(self, table):
        dataset = table("1.jpg,7,sun,", "2.jpg,7,,x", "3.jpg,8,,", "4.jpg,8,rain,", header="path,identity,weather,")
        assert dataset.reading().ignored == ("columns of the table: weather, (no name)",)

    def test_empty_rows_are_counted(self, table):
        assert "train: 2 files: row without values" in table(*COMPLETE, ",,,", " , , , ").reading().ignored


class TestPaths:
    def test_backslashes_are_read_as_slashes(self, table):
        table(*COMPLETE)
        rows = [row.replace("/", "\\") for row in COMPLETE]
        dataset = table(*rows, missing=[row.split(",")[0] for row in rows])
        assert [len(dataset.train), len(dataset.query)] == [2, 1]
        assert "4 paths with backslashes, read as slashes where no such file exists" in dataset.reading().read

    @pytest.mark.parametrize("again", ["./a/1.jpg", "b/../a/1.jpg", "a//1.jpg", "link.jpg", "hard.jpg"])
    def test_one_file_with_two_identities(self, table, tmp_path, again):
        table(*COMPLETE)
        (tmp_path / "link.jpg").symlink_to("a/1.jpg")
        (tmp_path / "hard.jpg").hardlink_to(tmp_path / "a/1.jpg")
        dataset = table(*COMPLETE, f"{again},bob,door,train", missing=[again])
        assert f"{again}: this file is also listed in" in check(dataset).defects[0]
        assert "as 'ada' instead of 'bob'" in check(dataset).defects[0]

    def test_one_file_under_two_names(self, table, tmp_path):
        table(*COMPLETE)
        (tmp_path / "hard.jpg").hardlink_to(tmp_path / "a/1.jpg")
        report = check(table(*COMPLETE, "hard.jpg,ada,door,train", missing=["hard.jpg"]))
        assert report.ok
        assert any("it counts as two images" in warning for warning in report.warnings)

    def test_folder_in_place_of_a_file(self, table):
        defects = check(table(*COMPLETE, "a,dee,door,train", missing=["a"])).defects
        assert defects[0].endswith("/a is a folder: list the images in it")

    def test_file_with_another_ending(self, table, tmp_path):
        for name in ("5.csv", "6.jpg~", "7"):
            shutil.copy(table(*COMPLETE).query[0].path, tmp_path / name)
        rows = [f"{name},cy,door,gallery" for name in ("5.csv", "6.jpg~", "7")]
        warnings = check(table(*COMPLETE, *rows, missing=["5.csv", "6.jpg~", "7"])).warnings
        assert any("2 files do not have the ending of an image, such as 5.csv" in warning for warning in warnings)

    @pytest.mark.parametrize("path", ["\0", "x" * 300 + ".jpg", "~/1.jpg", "http://host/1.jpg", "b/../a/7.jpg"])
    def test_path_that_is_no_file(self, table, path):
        assert "does not exist" in check(table(*COMPLETE, f"{path},dee,door,train", missing=[path])).defects[0]


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [
        ("1", "0001", True),
        ("1", "1.0", True),
        ("ada  b", "ada b", True),
        ("Ada", "ada", True),
        ("Zo\u00eb", "Zoe\u0308", True),
        ("cam1", "cam01", True),
        ("1", "1\u200b", True),
        ("1", "10", False),
        ("100", "10", False),
        ("1.5", "1.05", False),
        ("a1", "a2", False),
    ],
)
def test_names_that_differ_only_in_form(table, first, second, differ):
    rows = ("1.jpg,x,door,query", "2.jpg,x,hall,gallery", f"3.jpg,{first},door,train", f"4.jpg,{second},door,train")
    warnings = check(table(*rows)).warnings
    assert any("differ only by leading zeros, spaces or case" in warning for warning in warnings) == differ


def test_values_that_stand_for_missing_ones(table):
    warnings = check(table(*COMPLETE, "c/5.jpg,nan,door,train", "c/6.jpg,dee,N/A,train")).warnings
    assert any(warning.startswith("1 image has the identity 'nan', which looks like a missing") for warning in warnings)
    assert any(warning.startswith("1 image has the camera 'N/A', which looks like a missing") for warning in warnings)


@pytest.mark.parametrize("name", ["-1", "-1.0", "#NAME?", "<NA>"])
def test_junk_of_other_programs_counts_as_a_name(table, name):
    warnings = check(table(*COMPLETE, f"c/5.jpg,{name},door,train")).warnings
    assert any(f"the identity {name!r}, which looks like a missing value" in warning for warning in warnings)


@pytest.mark.parametrize("name", ["2.02312E+13", "1E+15", "2,02312E+13"])
def test_numbers_that_a_spreadsheet_has_rounded(table, name):
    warnings = check(table(*COMPLETE, f'c/5.jpg,"{name}",door,train')).warnings
    assert any(f"such as {name!r} look like long numbers that a spreadsheet has rounded" in text for text in warnings)


class TestLayouts:
    @pytest.fixture
    def layout(self, tmp_path, write_image):
        """`layout("Train/ada/1.jpg", ...)` writes images and opens the dataset."""

        def write(*paths: str) -> Folder:
            for number, path in enumerate(paths):
                write_image(tmp_path / "own" / path, number)
            return Folder(tmp_path, path=str(tmp_path / "own"))

        return write

    @staticmethod
    def split(name: str, *identities: str, inner: str = "") -> list[str]:
        return [f"{name}/{identity}/{inner}{number}.jpg" for identity in identities for number in (1, 2)]

    def test_case_of_splits_does_not_matter(self, layout):
        dataset = layout(*self.split("Train", "ada", "bob"), *self.split("TEST", "cy", "dee"))
        assert [len(dataset.train), len(dataset.query)] == [4, 4]
        assert dataset.reading().read[0] == (
            "folders test (written 'TEST'), train (written 'Train'), with a folder per identity"
        )

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                ("train", "val"),
                "own/val: this folder of 4 images is beside train, but is not a split; did you mean 'test'?",
            ),
            (("train", "test", "extra"), "own/extra: this folder of 4 images is beside test, train"),
            (
                ("train", "query_images", "gallery"),
                "query_images: this folder of 4 images is beside gallery, train, but",
            ),
            (("train", "query", "gallery_"), "did you mean 'gallery'?"),
            (("training", "testing"), "own/testing: this folder looks like a split, but would count as an identity"),
            (("bounding_box_train", "bounding_box_test"), "looks like a split, but would count as an identity"),
            (("train", "Train", "test"), "Train and train are the same split"),
            (("cam1", "cam2"), "the folders cam1, cam2 look like cameras, but would count as identities"),
            (("train/camera_1", "test/camera_2"), "the folders camera_1, camera_2 look like cameras"),
            (("cam_a", "camB"), "the folders camB, cam_a look like cameras"),
            (("site1/train", "site2/test"), "the folders in identities are named like splits (test, train)"),
            (("part1/Train", "part2/train"), "the folders in identities are named like splits (Train, train)"),
        ],
    )
    def test_near_misses_are_refused(self, layout, names, message):
        identities = iter("abcdefgh")
        paths = [path for name in names for path in self.split(name, next(identities), next(identities))]
        report = check(layout(*paths))
        assert any(message in defect for defect in report.defects), report.defects

    @pytest.mark.parametrize(
        ("paths", "message"),
        [
            (
                ["ada/cam1/1.jpg", "ada/cam2/1.jpg", "bob/cam1/1.jpg", "bob/cam2/2.jpg"],
                "in identities look like cameras",
            ),
            (
                ["door/1/1.jpg", "hall/1/1.jpg", "door/2/2.jpg", "hall/2/2.jpg"],
                "several identities have folders of the same",
            ),
            (
                ["ada/x/1.jpg", "ada/2.jpg", "bob/3.jpg", "bob/4.jpg"],
                "images are in folders within identities, such as ada/x",
            ),
            (["1/1_c1s1.jpg", "1/1_c2s1.jpg", "2/2_c1s1.jpg", "2/2_c3s1.jpg"], "seem to name cameras"),
            (
                ["cam1/1.jpg", "cam1/2.jpg", "cam2/3.jpg", "cam2/4.jpg"],
                "look like cameras, but would count as identities",
            ),
        ],
    )
    def test_doubtful_layouts_are_warned_of(self, layout, paths, message):
        report = check(layout(*paths))
        assert report.ok, str(report)
        assert any(message in warning for warning in report.warnings)
        assert "protocol: camera rule off: folders do not name cameras" in str(report)

    @pytest.mark.parametrize("name", ["test_person", "Trainer", "gallery_owner"])
    def test_identity_that_resembles_a_split(self, layout, name):
        report = check(layout(f"{name}/1.jpg", f"{name}/2.jpg", "ada/1.jpg", "ada/2.jpg"))
        assert report.ok, str(report)
        assert not report.warnings

    def test_wrapper_beside_clutter(self, layout, tmp_path):
        own = tmp_path / "own"
        paths = [f"photos/data/{path}" for path in (*self.split("train", "a", "b"), *self.split("test", "c", "d"))]
        layout(*paths, "__MACOSX/photos/._1.jpg")
        for name in (".DS_Store", "Thumbs.db", "README.txt"):
            (own / name).write_bytes(b"")
        dataset = layout()
        assert [len(dataset.train), len(dataset.query)] == [4, 4]
        assert dataset.reading().read[0] == "the only folder, photos/data"
        assert "train: 1 file: beside the only folder (.txt: 1)" in dataset.reading().ignored

    def test_endings(self, layout, tmp_path):
        endings = ("JPG", "jfif", "jpe", "ppm", "pgm", "webp", "tif", "bmp", "gif")
        dataset = layout(*(f"ada/{number}.{ending}" for number, ending in enumerate(endings)), "bob/1.png", "bob/2.png")
        for number, ending in enumerate(("heic", "HEIC", "txt", "<b>", "")):
            (tmp_path / "own" / "ada" / f"x{number}.{ending}").write_bytes(b"")
        (tmp_path / "own" / "nobody").mkdir()
        report = check(layout(), decode=True)
        assert len(dataset.train) == len(endings)
        assert report.ok, str(report)
        assert report.reading.ignored == (
            "train: 1 file: empty folder",
            "train: 2 files: image in a format that is not read (.heic: 2)",
            "train: 3 files: not an image (.txt: 1, no ending: 1, other endings: 1)",
        )
        assert "train: 2 images are left out, because .heic is not read: convert them to JPEG or PNG" in report.warnings

    def test_pipe_is_not_opened(self, layout, tmp_path):
        layout("ada/1.jpg", "ada/2.jpg", "bob/3.jpg", "bob/4.jpg")
        os.mkfifo(tmp_path / "own" / "bob" / "5.jpg")
        os.mkfifo(tmp_path / "own" / "table.csv")
        assert "train: 1 file: not a regular file" in layout().reading().ignored
        with pytest.raises(UserError, match=r"table\.csv is not a regular file"):
            Folder(tmp_path, path=str(tmp_path / "own" / "table.csv"))
        with pytest.raises(UserError, match=r"5\.jpg is neither a folder nor a table"):
            Folder(tmp_path, path=str(tmp_path / "own" / "bob" / "5.jpg"))

    def test_linked_image_of_two_identities(self, layout, tmp_path):
        dataset = layout("ada/1.jpg", "ada/2.jpg", "bob/3.jpg", "cy/4.jpg", "cy/5.jpg")
        (tmp_path / "own" / "bob" / "1.jpg").symlink_to("../ada/1.jpg")
        assert any("as 'ada' instead of 'bob'" in defect or "as 'bob'" in defect for defect in check(layout()).defects)
        assert check(dataset).ok

    def test_equal_images_in_training_and_test(self, layout, tmp_path):
        layout(*self.split("train", "ada", "bob"), *self.split("test", "cy", "dee"))
        shutil.copy(tmp_path / "own/train/ada/1.jpg", tmp_path / "own/test/cy/copy.jpg")
        warnings = check(layout()).warnings
        assert any(warning.startswith("1 image is in both training and test") for warning in warnings)
        assert any(warning.startswith("1 image is in several identities") for warning in warnings)
        shutil.copy(tmp_path / "own/test/dee/1.jpg", tmp_path / "own/test/dee/copy.jpg")
        assert any(warning.startswith("1 image is twice in the test images") for warning in check(layout()).warnings)

    def test_transparent_and_animated_images_are_counted(self, layout, tmp_path):
        layout("ada/1.jpg", "ada/2.jpg", "bob/3.jpg")
        Image.new("RGBA", (8, 8)).save(tmp_path / "own" / "bob" / "4.png")
        first, *more = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
        first.save(tmp_path / "own" / "bob" / "5.gif", save_all=True, append_images=more)
        notes = check(layout()).notes
        assert "1 image has transparent pixels or an alpha channel; the background is white" in notes
        assert "1 image has several frames or pages, of which the first is used" in notes

    def test_images_of_16_bits_are_counted(self, layout, tmp_path):
        layout("ada/1.jpg", "ada/2.jpg", "bob/3.jpg")
        Image.new("I;16", (8, 8)).save(tmp_path / "own" / "bob" / "4.png")
        assert "1 image has 16 bits per channel, of which the upper 8 are used" in check(layout()).notes


@pytest.mark.parametrize("protocol", ["query", "test"])
def test_reading_states_the_protocol(table, protocol):
    rows = (
        COMPLETE
        if protocol == "query"
        else [row.replace("query", "test").replace("gallery", "test") for row in COMPLETE]
    )
    assert table(*rows).reading().protocol == (
        "camera rule on, 2 cameras: gallery images of the query's identity and camera are ignored",
        "query and gallery are separate: every query searches the whole gallery"
        if protocol == "query"
        else "query and gallery are one list: every test image searches all others (leave-one-out)",
    )


@pytest.mark.parametrize(
    ("rows", "header", "reason"),
    [
        (
            [row.replace("hall", "door") for row in COMPLETE],
            "path,identity,camera,split",
            "all images have the camera 'door'",
        ),
        (["1.jpg,1", "2.jpg,1", "3.jpg,2", "4.jpg,2"], "path,identity", "the table has no column camera"),
        (["1.jpg,1,", "2.jpg,1,", "3.jpg,2, ", "4.jpg,2"], "path,identity,camera", "the column camera is empty"),
    ],
)
def test_reading_states_why_there_is_no_camera_rule(table, rows, header, reason):
    assert table(*rows, header=header).reading().protocol[0] == f"camera rule off: {reason}"


def test_reading_states_how_identities_were_divided(table):
    dataset = table("1.jpg,7", "2.jpg,7", "3.jpg,8", "4.jpg,8", header="path,identity")
    assert dataset.reading().read == (
        "table mine.csv, columns path, identity",
        "no splits: of 2 identities, sorted by name, the first 1 are for training and the others for testing",
        "2 training and 2 test images",
    )


def test_hostile_file_names_stay_on_their_line(table, tmp_path, command_line):
    name = "\x1b[2J\nall as expected.jpg"
    (tmp_path / "a").mkdir()
    table(*COMPLETE)
    (tmp_path / "mine.csv").write_text(f'path,identity\n"{name}",x\n')
    code, out, _ = command_line("data", "check", "folder", "--set", f"path={tmp_path / 'mine.csv'}")
    assert code == 1
    assert "\x1b" not in out
    assert "\nall as expected" not in out


def test_malformed_csv(tmp_path):
    (tmp_path / "mine.csv").write_text("path,identity\n" + "x" * 200_000 + ",7\n")
    with pytest.raises(
        UserError, match=r"is not a CSV file: in line 2, or it is longer than 131,072 characters, a value"
    ):
        Folder(tmp_path, path=str(tmp_path / "mine.csv"))


@pytest.fixture
def mine(make, tmp_path, monkeypatch):
    """The folder `mine` in the current folder, and in the home folder."""
    make("folder", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data" / "folder").rename(tmp_path / "mine")
    (tmp_path / "link").symlink_to("mine")
    return tmp_path / "mine"


@pytest.mark.parametrize("path", ["mine", "mine/", "./mine", "~/mine", "../{parent}/mine", "link", "{folder}"])
def test_the_spelling_of_a_path_changes_nothing(mine, tmp_path, path):
    spelled = path.format(parent=tmp_path.name, folder=mine)
    dataset = Folder(tmp_path, path=spelled)
    recipe = resolved(compose("none", "folder", settings=[f"dataset.path={spelled}"]), dataset)
    same = resolved(compose("none", "folder", settings=["dataset.label=mine", f"dataset.path={mine}"]), dataset)
    assert dataset.non_default_options() == {"label": "mine"}
    assert recipe.hash == same.hash
    assert str(tmp_path) not in str(recipe.recorded())
    assert len(dataset.train) == 12


def test_data_are_named_by_their_folder_table_or_label(mine, tmp_path):
    (tmp_path / "a table.csv").write_text("path,identity\n")
    assert Folder(tmp_path, path="a table.csv").label == "a_table"
    assert Folder(tmp_path, path="mine", label="birds").label == "birds"
    assert Folder(tmp_path).label == ""
    mine.rename(tmp_path / "data" / "birds")
    assert len(Folder(tmp_path / "data", label="birds").train) == 12  # without a path


def test_dataset_name_is_a_label():
    recipe = compose("none", "folder", settings=["dataset.name=birds"])
    assert (recipe.dataset.name, recipe.dataset.arguments["label"]) == ("folder", "birds")
    with pytest.raises(UserError, match="unknown dataset 'birds'"):
        compose("none", "glyphs", settings=["dataset.name=birds"])
    with pytest.raises(
        UserError, match=r"dataset\.label in .*: must be at most 48 letters, digits and _\.\+-, the first"
    ):
        compose("none", "folder", settings=["dataset.name=../birds"])
