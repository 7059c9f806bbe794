import threading

import pytest
import torch

from benchmark.utils.parallel import parallel_map, workers_for


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def test_items_in_order_by_threads_that_share_those_of_torch(threads: int):
    together = threading.Barrier(2, timeout=30)

    def work(item: int) -> tuple[int, int]:
        together.wait()
        return item, torch.get_num_threads()

    assert parallel_map(work, range(6), workers=2) == [(item, 2) for item in range(6)]
    assert torch.get_num_threads() == threads


def test_threads_that_cannot_be_shared_evenly(threads: int):
    together = threading.Barrier(3, timeout=30)

    def work(item: int) -> int:
        together.wait()
        return torch.get_num_threads()

    assert parallel_map(work, range(3), workers=3) == [2] * 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_items_are_done_in_the_mode_of_the_caller(threads: int, mode: type):
    def work(item: int) -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        here = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert parallel_map(work, range(4), workers=2) == [here] * 4


def test_an_error_in_one_item_is_raised_and_nothing_stays_changed(threads: int):
    def work(item: int) -> int:
        if item == 1:
            raise RuntimeError("item 1")
        return item

    with pytest.raises(RuntimeError, match="item 1"):
        parallel_map(work, range(4), workers=2)
    assert torch.get_num_threads() == threads


def test_one_at_a_time_where_the_precision_is_that_of_the_process(threads: int):
    assert workers_for(torch.device("cpu"), "float32") == threads
    assert workers_for(torch.device("cpu"), "bf16") == 1
    assert workers_for(torch.device("cuda"), "float32") == 1
