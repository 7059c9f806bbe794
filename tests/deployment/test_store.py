"""Embeddings on disk: incremental, resumable, and the same as computed at once."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import Student, UserError
from benchmark.data.decode import BrokenImage
from benchmark.deployment import store as module
from benchmark.deployment.store import EmbeddingStore
from benchmark.deployment.student import image_files
from benchmark.model.serialize import load_network


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """The sizes of the batches that were embedded."""
    sizes: list[int] = []
    original = Student.forward
    monkeypatch.setattr(Student, "forward", lambda self, images: sizes.append(len(images)) or original(self, images))
    return sizes


def content(store: EmbeddingStore) -> dict:
    """All embeddings by path."""
    paths = store.paths(range(len(store)))
    return dict(zip(paths, np.concatenate([store.vectors(shard) for shard in store.shards]), strict=True))


def same(store: EmbeddingStore, student: Student, folder) -> bool:
    """Whether the store has exactly the embeddings of the images in a folder."""
    files = image_files(folder)
    expected = student.embed(files).numpy()
    found = content(store)
    return found.keys() == set(files) and all(
        np.allclose(found[path], vector, rtol=0, atol=1e-6) for path, vector in zip(files, expected, strict=True)
    )


def test_all_images(tiny_student, pictures, tmp_path):
    store = EmbeddingStore.open(tmp_path / "store", folder := pictures(10), tiny_student)
    assert len(store) == 0
    update = store.update(tiny_student, batch_size=3)
    assert (update.embedded, update.kept, update.removed, update.broken) == (10, 0, 0, ())
    assert [shard.images for shard in store.shards] == [4, 4, 2]
    assert same(store, tiny_student, folder)
    assert same(EmbeddingStore(tmp_path / "store"), tiny_student, folder)
    files = image_files(folder)
    assert EmbeddingStore(tmp_path / "store").paths([9, 0, 4, 9]) == [files[9], files[0], files[4], files[9]]


def test_repetition_embeds_what_is_new_or_has_changed(tiny_student, pictures, embedded, tmp_path):
    store = EmbeddingStore.open(tmp_path / "store", folder := pictures(10), tiny_student)
    store.update(tiny_student)
    assert sum(embedded) == 10
    embedded.clear()
    assert store.update(tiny_student).kept == 10
    assert not embedded
    files = image_files(folder)
    files[0].unlink()
    for path in files[1:3]:
        Image.new("RGB", (30, 30), "red").save(path)
        os.utime(path, ns=(1, 10**18))
    Image.new("RGB", (30, 30), "blue").save(folder / "new.png")
    update = store.update(tiny_student)
    assert (update.embedded, update.kept, update.removed) == (3, 7, 3)
    assert sum(embedded) == 3
    assert same(store, tiny_student, folder)


def test_change_of_equal_size_is_noticed_by_its_time(tiny_student, tmp_path):
    path = tmp_path / "images" / "a.bmp"
    path.parent.mkdir()
    for color, time in (("red", 1), ("blue", 2)):
        Image.new("RGB", (8, 8), color).save(path)
        os.utime(path, ns=(time, time))
        store = EmbeddingStore.open(tmp_path / "store", path.parent, tiny_student)
        assert store.update(tiny_student).embedded == 1
    assert same(store, tiny_student, path.parent)


def test_files_without_any_image_are_removed(tiny_student, pictures, tmp_path):
    store = EmbeddingStore.open(tmp_path / "store", folder := pictures(9), tiny_student)
    store.update(tiny_student)
    for path in image_files(folder)[:4]:
        path.unlink()
    assert store.update(tiny_student).removed == 4
    assert [shard.images for shard in store.shards] == [4, 1]
    assert same(store, tiny_student, folder)


def test_interruption_loses_one_file_of_embeddings(tiny_student, pictures, monkeypatch, embedded, tmp_path):
    store = EmbeddingStore.open(tmp_path / "store", folder := pictures(10), tiny_student)
    transform = tiny_student.transform
    files = image_files(folder)

    def interrupted(path):
        if path == files[9]:
            raise KeyboardInterrupt
        return transform(path)

    monkeypatch.setattr(tiny_student, "transform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.update(tiny_student, batch_size=2)
    monkeypatch.undo()
    monkeypatch.setattr(module, "SHARD", 4)
    update = store.update(tiny_student)
    assert (update.embedded, update.kept) == (2, 8)
    assert same(store, tiny_student, folder)


def test_interruption_before_the_first_image(tiny_student, pictures, monkeypatch, tmp_path):
    folder = pictures(2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_text", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        EmbeddingStore.open(tmp_path / "store", folder, tiny_student)
    assert not (tmp_path / "store" / "store.json").exists()
    assert EmbeddingStore.open(tmp_path / "store", folder, tiny_student).update(tiny_student).embedded == 2


def test_broken_images(tiny_student, pictures, tmp_path):
    store = EmbeddingStore.open(tmp_path / "store", folder := pictures(6), tiny_student)
    bad = image_files(folder)[2]
    bad.write_bytes(b"")
    with pytest.raises(BrokenImage, match=rf"{bad.name} cannot be read: .*--skip-broken"):
        store.update(tiny_student)
    update = store.update(tiny_student, skip_broken=True)
    assert (update.embedded, update.broken) == (5, (bad,))
    shutil.copy(image_files(folder)[0], bad)  # repaired
    assert store.update(tiny_student).embedded == 1
    assert same(store, tiny_student, folder)


def test_npz(tiny_student, pictures, tmp_path):
    store = EmbeddingStore.open(tmp_path / "store", folder := pictures(10), tiny_student)
    store.update(tiny_student)
    store.write_npz(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as arrays:
        paths, embeddings = arrays["paths"], arrays["embeddings"]
    assert [folder / str(path) for path in paths] == image_files(folder)
    np.testing.assert_allclose(embeddings, tiny_student.embed(folder).numpy(), rtol=0, atol=1e-6)


def test_student_is_kept(tiny_student, pictures, tmp_path):
    store = EmbeddingStore.open(tmp_path / "store", folder := pictures(2), tiny_student)
    kept = store.student(torch.device("cpu"))
    assert torch.equal(kept.embed(folder), tiny_student.embed(folder))


class TestRefused:
    def test_other_content(self, tiny_student, pictures, tmp_path):
        folder = pictures(2)
        with pytest.raises(UserError, match="exists and has other content"):
            EmbeddingStore.open(folder, folder, tiny_student)

    def test_another_folder_or_student(self, tiny_student, student_file, pictures, tmp_path):
        EmbeddingStore.open(tmp_path / "store", pictures(2), tiny_student)
        with pytest.raises(UserError, match=r"has the embeddings of images of another folder, .*pictures"):
            EmbeddingStore.open(tmp_path / "store", pictures(2, "others"), tiny_student)
        other = load_network(student_file)
        with torch.no_grad():
            next(other.parameters()).mul_(2)
        with pytest.raises(UserError, match="has the embeddings of another student"):
            EmbeddingStore.open(tmp_path / "store", pictures(2), Student(other))

    def test_no_store(self, tmp_path):
        with pytest.raises(UserError, match=r"is not a folder of embeddings: store\.json cannot be read"):
            EmbeddingStore(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1, "folder": "/", "weights": "x"}'])
    def test_damaged_description(self, text, tmp_path):
        (tmp_path / "store.json").write_text(text)
        with pytest.raises(UserError, match=r"store\.json: "):
            EmbeddingStore(tmp_path)

    def test_damaged_embeddings(self, tiny_student, pictures, tmp_path):
        store = EmbeddingStore.open(tmp_path / "store", pictures(3), tiny_student)
        store.update(tiny_student)
        path = store.shards[0].path
        whole = path.read_bytes()
        path.write_bytes(whole[:-300])
        with pytest.raises(UserError, match=r"00000000\.npz is damaged: remove it"):
            store.vectors(store.shards[0])
        np.savez(path, vectors=np.zeros((3, 5), np.float32), names=["a"] * 3, sizes=[1] * 3, times=[1] * 3)
        with pytest.raises(UserError, match=r"has other embeddings than .*store\.json states"):
            store.vectors(store.shards[0])
        path.unlink()
        assert store.update(tiny_student).embedded == 3
