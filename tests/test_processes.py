"""Images are shared out among processes."""

import pytest
import torch.distributed as dist

from benchmark.errors import UserError
from benchmark.utils.distributed import share


@pytest.fixture
def one_of(monkeypatch):
    """`one_of(3, 0)`: this is the first of three processes."""

    def start(processes: int, rank: int) -> None:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: processes)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)

    return start


def test_parts_follow_each_other(one_of):
    parts = []
    for rank in range(3):
        one_of(3, rank)
        parts += [*share(range(5, 16))]
    assert parts == [*range(5, 16)]


@pytest.mark.parametrize("rank", range(3))
def test_too_few_are_refused_by_all(one_of, rank):
    one_of(3, rank)
    with pytest.raises(UserError, match="2 images are too few for 3 processes: start fewer"):
        share(range(2))
