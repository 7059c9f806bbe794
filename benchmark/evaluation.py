"""Embedding a dataset's test images and scoring them."""

from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.data.batch import Batch
from benchmark.data.loaders import eval_loader
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.model.embedder import Embedder
from benchmark.retrieval import Embeddings, Scores, evaluate


@dataclass
class TestSet:
    """Query and gallery images of a dataset, decoded once and embedded by any number of networks."""

    dataset: RetrievalDataset
    image_size: tuple[int, int]
    batch_size: int
    device: torch.device
    workers: int = 0
    _loaders: dict[str, DataLoader[Batch]] = field(default_factory=dict)

    def embed(self, network: Embedder, split: str) -> Embeddings:
        """Embeddings of "query" or "gallery", in float32, on the device."""
        loader = self._loader(split)
        parts = []
        with torch.inference_mode():
            console = Console(stderr=True)
            for batch in track(
                loader, f"embedding {split}", console=console, transient=True, disable=not console.is_terminal
            ):
                vectors = network(batch.images.to(self.device, non_blocking=True)).float()
                parts.append((vectors, batch.labels, batch.cameras))
        vectors, identities, cameras = (torch.cat(column) for column in zip(*parts, strict=True))
        return Embeddings(vectors, identities.to(self.device), cameras.to(self.device))

    def score(self, query: Embeddings, gallery: Embeddings) -> Scores:
        """Scores by the dataset's protocol."""
        return evaluate(query, gallery, self.dataset.protocol)

    def example(self, images: int) -> Tensor:
        """(images or fewer, 3, H, W) uint8: the first query images, on the device."""
        return next(iter(self._loader("query"))).images[:images].to(self.device)

    def _loader(self, split: str) -> DataLoader[Batch]:
        if split not in self._loaders:
            samples = getattr(self.dataset, split)
            self._loaders[split] = eval_loader(samples, self.image_size, self.batch_size, self.workers, self.device)
        return self._loaders[split]
