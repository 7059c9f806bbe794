"""What a method that compresses by compactors needs to know of the places where they sit."""

from typing import Protocol

from torch import Tensor, nn

from benchmark.model.surgery import Kept


class Compactable(Protocol):
    """A place in a network for a compactor, whose rows or columns stand for channels that could be saved."""

    @property
    def dim(self) -> int:
        """0 where rows of the compactor are removed, 1 where columns are."""
        ...

    @property
    def where(self) -> str:
        """Name within the backbone."""
        ...

    @property
    def weight(self) -> nn.Parameter:
        """The compactor's, (out, in, 1, 1), once it is inserted."""
        ...

    @property
    def width(self) -> int:
        """Rows or columns that are left; before it is inserted, channels."""
        ...

    def insert(self) -> None:
        """Put the compactor there; the network's output stays."""
        ...

    def keep(self, index: Tensor) -> list[Kept]:
        """Keep these rows or columns (int64, ascending), and what makes or reads them; what was narrowed."""
        ...

    def merge(self) -> None:
        """Fold the compactor into the convolution beside it."""
        ...
