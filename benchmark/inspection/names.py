"""What people call identities and cameras."""

from typing import Protocol


class Names(Protocol):
    """Anything that names identities and cameras; every `RetrievalDataset` does."""

    def identity_name(self, identity: int) -> str: ...

    def camera_name(self, camera: int) -> str: ...
