"""A GPU computes what the CPU does. Skipped without one; `tools/gpu_check.py` runs these tests."""

import importlib.util
from pathlib import Path

import pytest
import torch

from benchmark.methods.cdd.gradient_reset import GradientReset
from benchmark.retrieval import Embeddings, evaluate

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
WIDTHS = (16, 32, 64)


@pytest.fixture(scope="module")
def worker():
    """The module that takes a step of a method in float64."""
    path = Path(__file__).parent.parent / "engine" / "gradient_worker.py"
    spec = importlib.util.spec_from_file_location("gradient_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pooled(seed: int) -> list[torch.Tensor]:
    """Features whose channels differ in scale, so that some are unimportant for all images."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(12, w, generator=generator) * torch.linspace(0.05, 2, w) ** 2 for w in WIDTHS]


def test_scores():
    generator = torch.Generator().manual_seed(0)
    identities, cameras = (torch.randint(n, (850,), generator=generator) for n in (40, 5))
    vectors = torch.randn(40, 24, generator=generator)[identities] + torch.randn(850, 24, generator=generator)
    images = Embeddings(vectors, identities, cameras)
    query, gallery = images.take(torch.arange(150)), images.take(torch.arange(150, 850))
    assert evaluate(query.to(CUDA), gallery.to(CUDA)).mAP == pytest.approx(evaluate(query, gallery).mAP, abs=1e-5)


def test_masks_without_waiting_for_the_device():
    resets = {device: GradientReset(WIDTHS, 64, ratio=0.7).to(device) for device in ("cpu", "cuda")}
    for step in range(3):
        student, teacher = pooled(2 * step), pooled(2 * step + 1)
        resets["cpu"](student, teacher)
        inputs = [[each.to(CUDA) for each in side] for side in (student, teacher)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            resets["cuda"](*inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    masks = {device: torch.cat(reset.masks).cpu() for device, reset in resets.items()}
    assert (masks["cpu"] == 0).any()
    assert torch.equal(masks["cuda"], masks["cpu"])


@pytest.mark.parametrize("name", ["none", "kd", "rkd", "cdd", "resrep"])
def test_gradients_of_a_step(worker, name):
    expected, computed = (worker.step(name, worker.batch(torch.device(d)))["gradients"] for d in ("cpu", "cuda"))
    for key, gradient in expected.items():
        assert torch.allclose(
            computed[key].cpu(), gradient, rtol=1e-8, atol=1e-10 * float(gradient.abs().max()) + 1e-14
        )
