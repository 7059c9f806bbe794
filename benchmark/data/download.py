"""Archives that anyone may fetch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Download:
    """Where a dataset's archive lies, and what it must be. Only for sets that need no agreement."""

    url: str
    sha256: str
    size: int
    """Bytes."""

    @property
    def name(self) -> str:
        """The archive's file name."""
        return self.url.rsplit("/", 1)[-1]
