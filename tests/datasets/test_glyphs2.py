"""The images of glyphs 2: their bytes, their splits, and damage to them."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.datasets.glyphs2 import Glyphs2
from benchmark.errors import UserError
from benchmark.experiment.preflight import preflight
from benchmark.experiment.published import published_teachers, teacher_path
from benchmark.recipe import compose
from benchmark.recipe.compose import use_teacher
from benchmark.results.record import Record

OPTIONS = {"train_identities": 30, "test_identities": 10}


def write_miniature(root, write_image) -> None:
    """Write nothing: the dataset writes itself."""


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory) -> Glyphs2:
    dataset = Glyphs2(tmp_path_factory.mktemp("data"), **OPTIONS)
    dataset.prepare()
    return dataset


@pytest.fixture
def copy(glyphs, tmp_path) -> Glyphs2:
    """A copy that the test may damage."""
    shutil.copytree(glyphs.folder, tmp_path / glyphs.folder.name)
    return Glyphs2(tmp_path, **OPTIONS)


def test_images_are_the_same_bytes_everywhere(glyphs):
    """No library, version or machine may change them."""
    digest = hashlib.sha256()
    for sample in sorted((*glyphs.train, *glyphs.held_out, *glyphs.query, *glyphs.gallery)):
        digest.update(sample.path.name.encode() + sample.path.read_bytes())
    assert digest.hexdigest() == "dcf9b98379490bebb4f6fa83c0783479a03ba3bb921d494e92f8cefb20926bb7"


def test_card_states_the_default_sizes(tmp_path):
    assert Glyphs2(tmp_path).expected_sizes() == Glyphs2.card.splits


def test_images_are_dark_ink_on_light_paper(glyphs):
    for sample in glyphs.train[:50]:
        pixels = np.asarray(Image.open(sample.path)).astype(float)
        assert pixels.shape == (16, 16, 3)
        border = np.concatenate([pixels[0], pixels[-1]]).mean()
        assert border > 150
        assert pixels.mean(-1).min() < border - 50


def test_splits(glyphs):
    assert {sample.camera for sample in glyphs.query} == {2, 5, 8, 15}
    assert not {sample.camera for sample in glyphs.gallery} & {2, 5, 8, 15}
    assert Split.of(glyphs.train).identities == 21
    assert Split.of(glyphs.held_out).identities == 9
    assert Split.of(glyphs.gallery).identities == Split.of(glyphs.query).identities == 10


def test_test_images_do_not_depend_on_the_number_of_training_identities(glyphs, tmp_path):
    other = Glyphs2(tmp_path, train_identities=5, test_identities=10, validation_fraction=0.4)
    other.prepare()
    assert other.folder.name != glyphs.folder.name
    contents = [{path.name: path.read_bytes() for path, *_ in dataset.query} for dataset in (glyphs, other)]
    assert contents[0] == contents[1]


def test_prepare_keeps_existing_images(copy):
    before = copy.folder.stat().st_mtime_ns
    copy.prepare()
    assert copy.folder.stat().st_mtime_ns == before


def test_check_names_damaged_files(copy):
    missing, changed, broken = (sample.path for sample in copy.train[:3])
    missing.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    broken.write_bytes(b"not an image")
    assert not check(copy).ok
    damage = {line.split()[0]: line for line in copy.damaged_files()}
    assert set(damage) == {f"train/{path.name}" for path in (missing, changed, broken)}
    assert damage[f"train/{changed.name}"].endswith("has changed")


@pytest.mark.slow
def test_changed_images_stop_a_run(tmp_path):
    dataset = Glyphs2(tmp_path)
    dataset.prepare()
    assert dataset.fingerprint() == Glyphs2.content
    path = dataset.query[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match="does not have the images of the package: delete the folder"):
        Glyphs2(tmp_path).fingerprint()


@pytest.mark.parametrize("options", [{"train_identities": 0}, {"test_identities": 10**6}, {"train_identities": 10**6}])
def test_too_many_or_no_identities(tmp_path, options):
    with pytest.raises(UserError, match="must be from 1 to"):
        Glyphs2(tmp_path, **options).prepare()


@pytest.mark.parametrize("budget", Glyphs2.students)
def test_students_have_the_cost_of_their_budget(budget):
    checked = preflight(compose("kd", "glyphs2", settings=[f"budget={budget}"]))
    share = checked.student.macs / checked.teacher.macs
    assert 0.95 * budget < share <= budget


def test_budget_is_the_target_of_methods_that_compress():
    assert compose("cdd", "glyphs2").method.arguments["target_macs"] == 0.42


class TestTeacher:
    """The teacher in the package."""

    @pytest.fixture
    def recipe(self):
        return compose("none", "glyphs2")

    def test_is_small_and_known(self, recipe):
        folder = teacher_path(recipe.teacher.checkpoint)
        assert sum(path.stat().st_size for path in folder.rglob("*")) <= 6_000_000
        assert recipe.teacher.checkpoint in [name for name, _ in published_teachers()]

    def test_can_be_reproduced(self, recipe):
        """Its images and recipe are those of the dataset, so that `benchmark reproduce` repeats its training."""
        record = Record.read(teacher_path(recipe.teacher.checkpoint) / "record.json")
        trained = compose("none", "glyphs2", settings=use_teacher("train"))
        assert record.role == "teacher"
        assert record.data.fingerprint == Glyphs2.content
        assert record.recipe_hash == trained.for_teacher().hash
