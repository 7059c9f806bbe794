"""The user's own images: folders and tables."""

import shutil

import pytest

from benchmark.data.check import check
from benchmark.datasets.folder import Folder
from benchmark.errors import UserError


def miniature(root, picture) -> None:
    for split, names in (
        ("train", ("ada", "bob", "cy", "dee")),
        ("query", ("eve", "fay")),
        ("gallery", ("eve", "fay")),
    ):
        for identity, name in enumerate(names):
            for image in range(3):
                picture(root / "folder" / split / name / f"{image}.jpg", ord(name[0]) + identity)
    (root / "folder" / "notes.txt").write_text("mine")


@pytest.fixture
def table(tmp_path, picture):
    """`table(rows)` writes a CSV file and the images it names; returns the dataset."""

    def write(*rows: str, header: str = "path,identity,camera,split", missing: str = "") -> Folder:
        file = tmp_path / "mine.csv"
        file.write_text("\n".join([header, *rows]), encoding="utf-8-sig")
        for row in rows:
            path = row.split(",")[0]
            if path and path != missing:
                picture(tmp_path / path, len(row))
        return Folder(tmp_path / "elsewhere", path=str(file))

    return write


COMPLETE = ("a/1.jpg,ada,door,train", "a/2.jpg,bob,hall,train", "b/3.jpg,cy,door,query", "b/4.jpg,cy,hall,gallery")


def test_folders_with_query_and_gallery(make):
    dataset = make("folder").open()
    assert [len(dataset.train), len(dataset.query), len(dataset.gallery)] == [12, 6, 6]
    assert not dataset.protocol.query_in_gallery
    assert not dataset.protocol.camera_rule


def test_folders_with_test(make):
    made = make("folder")
    folder = made.open().folder
    (folder / "query").rename(folder / "test")
    (folder / "gallery" / "fay").rename(folder / "test" / "gus")
    for image in (folder / "gallery").rglob("*.jpg"):
        image.unlink()
    dataset = made.open()
    assert dataset.protocol.query_in_gallery
    assert len(dataset.query) == len(dataset.gallery) == 9


def test_folders_without_splits(tmp_path, picture):
    for name in ("10", "9", "1", "3", "2"):
        for image in range(2):
            picture(tmp_path / "own" / name / f"{image}.png", int(name))
    dataset = Folder(tmp_path, path=str(tmp_path / "own"))
    assert {sample.identity for sample in dataset.train} == {1, 2, 3}
    assert {sample.identity for sample in dataset.query} == {9, 10}
    assert dataset.protocol.query_in_gallery
    assert dataset.variant() == {"path": str(tmp_path / "own")}


def test_a_table_with_cameras(table):
    dataset = table(*COMPLETE)
    assert [(sample.path.name, sample.identity, sample.camera) for sample in dataset.train] == [
        ("1.jpg", 0, 0),
        ("2.jpg", 1, 1),
    ]
    assert [(sample.identity, sample.camera) for sample in (*dataset.query, *dataset.gallery)] == [(2, 0), (2, 1)]
    assert dataset.protocol.camera_rule
    assert not dataset.protocol.query_in_gallery


def test_a_table_of_nothing_but_identities(table):
    dataset = table("1.jpg,7", "2.jpg,7", "3.jpg,8", "4.jpg,8", header="path,identity")
    assert [(sample.path.name, sample.identity) for sample in dataset.train] == [("1.jpg", 7), ("2.jpg", 7)]
    assert [sample.identity for sample in dataset.query] == [8, 8]
    assert not dataset.protocol.camera_rule


def test_one_camera_is_said_before_anything_is_trained(table):
    rows = [row.replace("hall", "door") for row in COMPLETE]
    assert not table(*rows).protocol.camera_rule, "with one camera there is nothing to ignore"
    rows = [*COMPLETE[:3], "b/4.jpg,cy,door,gallery"]
    with pytest.raises(UserError, match="all images are from one camera"):
        _ = table(*rows).train


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("c/5.jpg,,door,train", "line 6: the identity is missing"),
        (",dee,door,train", "line 6: the path is missing"),
        ("c/5.jpg,dee,door,trian", "line 6: unknown split 'trian'; did you mean 'train'?"),
        ("c/5.jpg,dee,door,test", "images are in test, and others in query or gallery"),
        ("c/5.jpg,dee,door,", "c/5.jpg is in no split, but others are"),
        ("c/6.jpg,dee,door,train", "line 6: {folder}/c/6.jpg is missing"),
    ],
)
def test_a_row_with_a_mistake(table, tmp_path, row, said):
    dataset = table(*COMPLETE, row, missing="c/6.jpg")
    assert said.format(folder=tmp_path) in check(dataset).differences[0]


def test_a_table_without_a_column_says_what_it_has(table):
    with pytest.raises(
        UserError, match=r"has no column 'identity'; did you mean 'identities'\? It has: path, identities"
    ):
        table("1.jpg,7", header="path,identities")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "does not exist"),
        ("empty.csv", "", "is empty: its first line names the columns path, identity, camera, split"),
        ("semicolons.csv", "path;identity\n1.jpg;7\n", "its columns must be separated by commas"),
        ("table.txt", "path,identity\n1.jpg,7\n", "is neither a folder nor a table, whose name ends in .csv"),
        ("latin.csv", "path,identity\n1.jpg,Zoë\n", "is not text in UTF-8"),
    ],
)
def test_what_is_no_table(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=said) as raised:
        _ = Folder(tmp_path, path=str(path)).train
    assert str(path) in str(raised.value)


def test_names_are_those_of_the_user(table):
    dataset = table(*COMPLETE)
    sample = dataset.query[0]
    assert (dataset.identity_name(sample.identity), dataset.camera_name(sample.camera)) == ("cy", "door")
    assert any("such as cy" in line for line in check(table(*COMPLETE, "c/5.jpg,cy,door,train")).differences)


def test_the_check_compares_with_nothing(table):
    report = str(check(table(*COMPLETE)))
    assert "not published" not in report
    assert report.endswith("no defects")


def test_an_error_says_how_to_check_the_same_images(table, tmp_path):
    with pytest.raises(UserError, match=r"`benchmark data check folder --set path=.*\.csv` says what is expected"):
        _ = table(*COMPLETE, "c/5.jpg,cy,door,train").train


def test_an_image_beside_the_identities(make, picture):
    made = make("folder")
    picture(made.open().folder / "train" / "stray.jpg")
    assert "stray.jpg is not in the folder of an identity" in check(made.open()).differences[0]


def test_identities_on_both_sides_are_an_option(table):
    rows = [row.replace("ada", "cy") for row in COMPLETE]
    with pytest.raises(UserError, match="in both training and test"):
        _ = table(*rows).train
    assert len(Folder(table(*rows).root, path=table(*rows).path, closed_set=True).train) == 2


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv"):
        _ = Folder(tmp_path, path=str(tmp_path / "none.csv")).train


def test_links_that_lead_in_a_circle(make):
    made = make("folder")
    folder = made.open().folder
    (folder / "train" / "ada" / "again").symlink_to(folder / "train")
    (folder / "train" / "bob" / "a.jpg").symlink_to("b.jpg")
    (folder / "train" / "bob" / "b.jpg").symlink_to("a.jpg")
    differences = check(made.open()).differences
    assert any("is a link to a folder that it is in" in line for line in differences)
    assert any("a.jpg cannot be followed" in line for line in differences)


def test_a_missing_split_is_missing(make):
    made = make("folder")
    folder = made.open().folder
    shutil.rmtree(folder / "query")
    shutil.rmtree(folder / "gallery")
    (folder / "notes.txt").unlink()
    with pytest.raises(UserError, match="there are no query images"):
        _ = made.open().train


def test_one_folder_around_all_is_looked_into(make):
    made = make("folder")
    folder = made.open().folder
    before = len(made.open().train)
    (folder / "notes.txt").unlink()
    folder.rename(made.root / "wrapped")
    folder.mkdir()
    (made.root / "wrapped").rename(folder / "official")
    assert len(made.open().train) == before


def test_a_single_identity_or_a_circle_is_not_looked_into(tmp_path, picture):
    picture(tmp_path / "own" / "alice" / "1.jpg")
    assert [row.identity for row in Folder(tmp_path, path=str(tmp_path / "own"))._images] == ["alice"]
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "again").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="again is a link to a folder that it is in"):
        _ = Folder(tmp_path, path=str(tmp_path / "circle")).train


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a/1.jpg,eve,door,gallery", "line 6: a/1.jpg is also named in line 2"),
        ("c/5.jpg,dee,,train", "c/5.jpg has no camera, but others have"),
        ("c/5.jpg,dee,door,train,more", "line 6: there are more values than columns"),
    ],
)
def test_a_row_that_contradicts_others(table, row, said):
    assert any(said in difference for difference in check(table(*COMPLETE, row)).differences)


def test_numbers_that_are_too_large_for_identities_are_names(table):
    rows = [f"{number}.jpg,{10**30 + number // 2}" for number in range(4)]
    assert {sample.identity for sample in table(*rows, header="path,identity").query} == {1}


def test_a_table_that_is_none(tmp_path):
    (tmp_path / "mine.csv").write_text("path,identity\n" + "x" * 200_000 + ",7\n")
    with pytest.raises(UserError, match=r"mine\.csv is no CSV file: field larger than field limit"):
        Folder(tmp_path, path=str(tmp_path / "mine.csv"))
