"""Maps of torch operators over items with threads."""

import threading

import pytest
import torch

from benchmark.retrieval._threads import TorchThreads, parallel_map


@pytest.fixture
def four_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("workers", "share"), [(2, 2), (3, 2)])
@pytest.mark.usefixtures("four_torch_threads")
def test_threads_divide_torchs_threads(workers: int, share: int):
    together = threading.Barrier(workers, timeout=30)

    def work(item: int) -> tuple[int, int]:
        together.wait()
        return item, torch.get_num_threads()

    assert parallel_map(work, range(6), workers) == [(item, share) for item in range(6)]
    assert torch.get_num_threads() == 4


def test_pool_keeps_its_threads_for_later_items():
    with TorchThreads(2) as pool:
        used = {name for _ in range(4) for name in pool.map(lambda _: threading.get_ident(), range(8))}
    assert len(used) <= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_is_the_callers_thread(workers: int):
    assert parallel_map(lambda _: threading.get_ident(), range(3), workers) == [threading.get_ident()] * 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_gradient_mode(mode: type):
    def modes(_: int) -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        assert parallel_map(modes, range(4), workers=2) == [modes(0)] * 4


@pytest.mark.usefixtures("four_torch_threads")
def test_error_is_raised_and_torchs_threads_restored():
    def work(item: int) -> int:
        if item == 1:
            raise RuntimeError("item 1")
        return item

    with pytest.raises(RuntimeError, match="item 1"):
        parallel_map(work, range(4), workers=2)
    assert torch.get_num_threads() == 4
