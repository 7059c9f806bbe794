"""The user's own images, in folders and in tables."""

import shutil

import pytest

from benchmark.data.check import check
from benchmark.datasets.folder import Folder
from benchmark.errors import UserError


def write_miniature(root, write_image) -> None:
    for split, names in (
        ("train", ("ada", "bob", "cy", "dee")),
        ("query", ("eve", "fay")),
        ("gallery", ("eve", "fay")),
    ):
        for identity, name in enumerate(names):
            for image in range(3):
                write_image(root / "folder" / split / name / f"{image}.jpg", ord(name[0]) + identity)
    (root / "folder" / "notes.txt").write_text("mine")


@pytest.fixture
def table(tmp_path, write_image):
    """`table(rows)` writes a CSV file and its images, and opens the dataset."""

    def write(*rows: str, header: str = "path,identity,camera,split", missing: str = "") -> Folder:
        file = tmp_path / "mine.csv"
        file.write_text("\n".join([header, *rows]), encoding="utf-8-sig")
        for row in rows:
            path = row.split(",")[0]
            if path and path != missing:
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
    assert dataset.non_default_options() == {"path": str(tmp_path / "own")}


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
        ("c/5.jpg,dee,door,trian", "line 6: unknown split 'trian'; did you mean 'train'?"),
        ("c/5.jpg,dee,door,test", "some images are in test, others in query or gallery"),
        ("c/5.jpg,dee,door,", "c/5.jpg has no split, but other images have one"),
        ("c/6.jpg,dee,door,train", "line 6: {folder}/c/6.jpg does not exist"),
    ],
)
def test_defects_of_a_row(table, tmp_path, row, message):
    dataset = table(*COMPLETE, row, missing="c/6.jpg")
    assert message.format(folder=tmp_path) in check(dataset).defects[0]


def test_missing_column(table):
    with pytest.raises(
        UserError, match=r"has no column 'identity'; did you mean 'identities'\? It has: path, identities"
    ):
        table("1.jpg,7", header="path,identities")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "does not exist"),
        ("empty.csv", "", "is empty: the first line must name the columns path, identity, camera, split"),
        ("semicolons.csv", "path;identity\n1.jpg;7\n", "separate the columns by commas"),
        ("table.txt", "path,identity\n1.jpg,7\n", "is neither a folder nor a table: the name of a table ends in .csv"),
        ("latin.csv", "path,identity\n1.jpg,Zoë\n", "is not text in UTF-8"),
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
    with pytest.raises(UserError, match=r"run `benchmark data check folder --set path=.*\.csv` for details"):
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
        ("a/1.jpg,eve,door,gallery", "line 6: a/1.jpg is also listed in line 2"),
        ("c/5.jpg,dee,,train", "c/5.jpg has no camera, but other images have one"),
        ("c/5.jpg,dee,door,train,more", "line 6: there are more values than columns"),
    ],
)
def test_contradictory_rows(table, row, message):
    assert any(message in defect for defect in check(table(*COMPLETE, row)).defects)


def test_numbers_too_large_for_identities_are_names(table):
    rows = [f"{number}.jpg,{10**30 + number // 2}" for number in range(4)]
    assert {sample.identity for sample in table(*rows, header="path,identity").query} == {1}


def test_malformed_csv(tmp_path):
    (tmp_path / "mine.csv").write_text("path,identity\n" + "x" * 200_000 + ",7\n")
    with pytest.raises(UserError, match=r"mine\.csv is not a CSV file: field larger than field limit"):
        Folder(tmp_path, path=str(tmp_path / "mine.csv"))
