"""Sharing images among processes."""

import pytest
import torch.distributed as dist

from benchmark.errors import UserError
from benchmark.utils.distributed import share


@pytest.fixture
def set_process(monkeypatch):
    """`set_process(3, 0)` makes this process appear as the first of three."""

    def start(processes: int, rank: int) -> None:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: processes)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)

    return start


def test_shares_are_consecutive_and_complete(set_process):
    shares = []
    for rank in range(3):
        set_process(3, rank)
        shares += share(range(5, 16))
    assert shares == [*range(5, 16)]


@pytest.mark.parametrize("rank", range(3))
def test_fewer_images_than_processes_are_refused_on_every_process(set_process, rank):
    set_process(3, rank)
    with pytest.raises(UserError, match="2 images cannot be shared among 3 processes: start at most 2 processes"):
        share(range(2))
