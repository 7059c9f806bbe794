"""A loader whose workers' mistakes are told like anybody's."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from benchmark.data.batch import Batch
from benchmark.data.images import Images
from benchmark.data.parallel import cores
from benchmark.errors import UserError

MOST_WORKERS = 8
"""Of those that are started when nobody has said how many."""


class Batches(Protocol):
    """Images that come as whole batches."""

    images: Images

    def __getitems__(self, indices: Sequence[Any]) -> Batch: ...


class BatchLoader(DataLoader[Batch]):
    """Batches of training or evaluation, loaded by worker processes; none is empty.

    A `UserError` in a worker is raised as it is: torch would put the worker's traceback into its message.

    Args:
        source: Where batches come from.
        workers: Processes that load; 0 is the caller's own. With None, one per core but no more than 8, and none where
            images are kept or there is a single core.
        device: Where batches go next; for "cuda" they are put into pinned memory.
        persistent: Keep the workers from one pass to the next.
        batches: How `DataLoader` is to sample.
    """

    def __init__(
        self, source: Batches, workers: int | None, device: str | torch.device, persistent: bool, **batches: Any
    ) -> None:
        if workers is None:
            workers = 0 if source.images.kept or cores() == 1 else min(cores(), MOST_WORKERS)
        self.source = source
        super().__init__(
            _Guarded(source),
            collate_fn=_whole,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.device(device).type == "cuda",
            # Without a generator of its own, a loader advances the process's random state at the start of every epoch.
            generator=torch.Generator(),
            **batches,
        )

    # torch promises its own class of iterator, of which nothing but the iteration is used.
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            if len(batch.images):  # or all of them are broken
                yield batch


class _Guarded(Dataset[Any]):
    """A dataset that hands mistakes over like batches."""

    def __init__(self, source: Batches) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.images)

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        try:
            return self.source.__getitems__(indices)
        except UserError as error:
            return error


def _whole(batch: Any) -> Any:
    return batch  # `__getitems__` has made it already
