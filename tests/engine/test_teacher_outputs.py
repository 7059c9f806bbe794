"""Stored outputs of the teacher: equal to computed ones, shared by runs, continued after a kill, refused if wrong."""

import re

import pytest
import torch

from benchmark import Method, evaluation
from benchmark.data.augment import train_transform
from benchmark.data.batch import Draw
from benchmark.data.loaders import Loading, train_loader
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine import teacher_outputs
from benchmark.engine.files import StoredOutputs
from benchmark.engine.teacher_outputs import Layout, most_bytes, stored_outputs
from benchmark.errors import UserError
from benchmark.methods.kd import KD
from benchmark.model.features import Features
from benchmark.model.residual_blocks import build

VIEWS = "teacher.cached_views=2"
ROWS = 2 * 542
"""Two views of every image of the tiny dataset."""
NAMES = ("pooled", "embedding", "logits")


def network(recipe, seed: int = 0, **changes):
    torch.manual_seed(seed)
    settings = recipe.teacher.network.model_dump(exclude={"weights"}) | changes
    teacher = build(**settings, identities=40)
    teacher.train()(torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8))  # for running statistics
    return teacher.requires_grad_(False).eval()


@pytest.fixture
def store(tiny, data_root, tmp_path):
    """`store(teacher, "train.augment.flip=0.5")` returns the training images, the file and the layout."""

    def open_file(teacher=None, *settings: str):
        torch.set_num_threads(1)
        recipe = tiny("kd", VIEWS, *settings)
        data = Glyphs(data_root, **recipe.dataset.arguments)
        transform = train_transform(recipe.image_size, **recipe.train.augment.model_dump(exclude={"load_size"}))
        views = recipe.teacher.cached_views
        source = train_loader(
            data, transform, identities=8, images=4, seed=0, loading=Loading(recipe.image_size), fixed_views=views
        ).source
        test = evaluation.TestSet(data, Loading(recipe.image_size), recipe.evaluate.batch_size)
        return source, *stored_outputs(
            network(recipe) if teacher is None else teacher, source, recipe=recipe, test=test, root=tmp_path / "outputs"
        )

    return open_file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("identities", [0, 5])
def test_layout(dtype, identities):
    """Outputs have their types and exact values, those of a teacher without classifier too."""
    shapes = {"pooled": (4, 7), "embedding": (4, 3), "logits": (4, identities)}
    features = Features(**{name: torch.randn(shape).to(dtype) for name, shape in shapes.items()})
    layout = Layout.of(features)
    rows = layout.pack(features)
    assert rows.shape == (4, layout.row_bytes)
    again = layout.unpack(rows.flip(0))
    for name in NAMES:
        assert torch.equal(getattr(again, name), getattr(features, name).flip(0))
        assert getattr(again, name).dtype == dtype


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, ["train.augment.flip=0.5", "train.augment.erase=0.5"]),
        ({"image_size": (24, 40), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}, []),
        ({}, ["runtime.amp=bf16"]),
    ],
    ids=["augmentation", "own size and normalization", "bfloat16"],
)
def test_stored_outputs_are_those_for_the_pixels_of_the_batch(store, tiny, changes, settings):
    teacher = network(tiny("kd"), **changes)
    source, file, layout = store(teacher, *settings)
    source.stored = file
    batch = source.__getitems__([Draw(position, 0, view) for position in (0, 17, 541) for view in (0, 1)])
    half = bool(settings) and "bf16" in settings[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected = teacher.features(batch.images)
    stored = layout.unpack(batch.stored)
    assert len({image.numpy().tobytes() for image in batch.images}) == 6
    for name in NAMES:
        ours, theirs = getattr(stored, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).float().norm() <= (0.02 if half else 1e-5) * theirs.float().norm()
    assert file.size.rows * file.size.row_bytes <= most_bytes(teacher, 542, 40, 2)


def test_file_depends_on_everything_that_changes_the_outputs(store, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_outputs._Store, "_compute", lambda store, file, layout: None)
    other = network(tiny("kd"))
    other.head.weight[0, 0] += 1
    for number, (teacher, settings) in enumerate(
        (
            (None, ()),
            (other, ()),
            (network(tiny("kd"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), ()),
            (None, ("train.augment.flip=0.1",)),
            (None, ("runtime.amp=bf16",)),
            (None, ("teacher.cached_views=1",)),
        )
    ):
        assert len(list((tmp_path / "outputs").glob("[0-9]*"))) == number
        store(teacher, *settings)
    store(None, "seed=3", "train.optimizer.lr=0.1", "evaluate.batch_size=7")
    assert len(list((tmp_path / "outputs").glob("[0-9]*"))) == 6


class Stopped(BaseException):
    pass


def test_continues_after_a_kill(store, monkeypatch, capsys):
    """The rows are those of a computation that was not interrupted."""
    append, written = teacher_outputs.RowFile.append, []

    def stop_at_the_fourth(file, rows, seconds):
        if len(written) == 3:
            raise Stopped
        written.append(rows)
        append(file, rows, seconds)

    with monkeypatch.context() as patched:
        patched.setattr(teacher_outputs.RowFile, "append", stop_at_the_fourth)
        with pytest.raises(Stopped):
            store()
    _, continued, _ = store()
    assert "1,084 forward passes, of which 384 are there" in capsys.readouterr().err
    rows = continued.read(torch.arange(ROWS))
    assert torch.equal(rows[:384], torch.cat(written))
    for path in continued.folder.iterdir():
        path.unlink()
    assert torch.equal(store()[1].read(torch.arange(ROWS)), rows)


def test_other_outputs_behind_the_same_description_are_refused(store, tiny, monkeypatch):
    """As if a plugin had read other weights, which are no parameters of the module."""
    store()
    monkeypatch.setattr(teacher_outputs, "_weights_hash", lambda teacher: hashed)
    hashed = "0" * 64
    store()
    with pytest.raises(UserError, match=r"the stored \w+ of the teacher differs .* by \d+ %: delete the folder"):
        store(network(tiny("kd"), seed=1))


def test_not_finite_outputs_are_refused(store, tiny):
    teacher = network(tiny("kd"))
    teacher.head.weight[:] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite, and cannot be stored"):
        store(teacher)


class TestTraining:
    def test_runs_share_the_outputs(self, tiny, train_tiny, tmp_path, capsys):
        settings = (VIEWS, "train.schedule.epochs=1")
        train_tiny(tiny("kd", *settings), tmp_path / "first")
        assert capsys.readouterr().err.count("computing the teacher's outputs for 2 fixed views of 542 images") == 1
        train_tiny(tiny("csd", *settings, "seed=1"), tmp_path / "second")
        assert "computing" not in capsys.readouterr().err
        first, second = (StoredOutputs.read(tmp_path / name) for name in ("first", "second"))
        assert first == second
        assert (first.views, first.forward_passes, first.bytes) == (2, ROWS, ROWS * 4 * (64 + 16 + 40))
        assert StoredOutputs.read(tmp_path) is None

    @pytest.mark.slow
    def test_resumes_bit_identically_with_any_number_of_workers(self, tiny, train_tiny, tmp_path):
        class Interrupted(KD):
            def after_epoch(self, student, progress):
                if progress.epoch == 2:
                    raise KeyboardInterrupt
                return []

        recipe = tiny("kd", VIEWS)
        straight = train_tiny(recipe, tmp_path / "straight")
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path / "resumed", method=Interrupted())
        resumed = train_tiny(tiny("kd", VIEWS, "runtime.workers=2"), tmp_path / "resumed", resume=True)
        expected = straight.student.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in resumed.student.state_dict().items())

    def test_maps_that_a_method_selects_late_are_refused(self, tiny, train_tiny, tmp_path):
        class Late(Method):
            def prepare(self, student, teacher, plan):
                self.teacher_taps = ["stage2"]

        with pytest.raises(UserError, match=r"reads feature maps of the teacher \(stage2\), which are too large"):
            train_tiny(tiny("kd", VIEWS), tmp_path, method=Late())


def test_damaged_description_of_a_run(tmp_path):
    (tmp_path / "teacher_outputs.json").write_text('{"views": 2}')
    with pytest.raises(UserError, match=re.escape("teacher_outputs.json does not describe stored outputs")):
        StoredOutputs.read(tmp_path)
