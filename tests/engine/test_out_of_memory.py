"""One line if the memory does not suffice, with the sizes that it depends on."""

import pytest
import torch

from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.hooks import RetrievalMetric
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.methods.none import NoDistillation


class Starving(NoDistillation):
    """A method for which the memory does not suffice."""

    def loss(self, student, teacher, batch):
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    ("precision", "stated"), [("off", r"in float32: .*, or set runtime\.amp=bf16"), ("bf16", "in bfloat16: ")]
)
def test_training(tiny, train_tiny, tmp_path, precision, stated):
    message = f"^tiny: out of memory on cpu with batches of 32 images, of 32x32 pixels, {stated}"
    with pytest.raises(UserError, match=message):
        train_tiny(tiny("none", f"runtime.amp={precision}"), tmp_path, method=Starving())


def test_validation(tiny, train_tiny, tmp_path, monkeypatch):
    def starve(self, data_batch, data_samples):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr(RetrievalMetric, "process", starve)
    recipe = tiny("none", "train.schedule.epochs=1", "evaluate.every=1", "dataset.validation_fraction=0.2")
    with pytest.raises(UserError, match=r"^tiny: out of memory .* 128 test images.*: lower evaluate\.batch_size"):
        train_tiny(recipe, tmp_path)


def test_evaluation(data_root):
    def starve(images):
        raise MemoryError

    test = TestSet(Glyphs(data_root, train_identities=40, test_identities=20), Loading((32, 32)), 64)
    with pytest.raises(UserError, match=r"^out of memory on cpu with batches of 64 test images, of 32x32 pixels"):
        test.embed(starve, "query")
    with pytest.raises(RuntimeError, match="shape mismatch"):  # is no shortage of memory
        test.embed(lambda images: (_ for _ in ()).throw(RuntimeError("shape mismatch")), "query")
