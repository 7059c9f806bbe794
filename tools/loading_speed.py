"""Images per second of three ways to load a training split, as ratios within one run.

plain   every image by itself: Pillow decodes the whole of it and resizes, torchvision's first transforms turn it into
        float32, normalise and augment it (as torchreid does, and fast-reid but for its own augmentation)
fast    as this suite does by default: JPEGs decoded at reduced size where that is enough, uint8 throughout, whole
        batches, normalisation left to the device
cached  the same from packed images

All three give batches of the same images. Photographs are made up in a temporary folder: smooth noise, JPEG quality 90.

    python tools/loading_speed.py --source 375 500 --size 256 256
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1

from benchmark.data.card import Card
from benchmark.data.decode import train_transform
from benchmark.data.images import Images
from benchmark.data.loaders import BatchLoader, TrainingImages
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.sampler import Draw, PKBatchSampler
from benchmark.data.samples import Sample

IDENTITIES, EACH = 16, 6
PAD, FLIP, ERASE = 10, 0.5, 0.5


class Photographs(RetrievalDataset):
    """Made-up images in a folder; the test images, which nobody loads, are the same."""

    name = "photographs"
    card = Card("Photographs", "", "", "", "")

    def scan(self, split: str) -> Iterator[Sample]:
        test = 1000 * (split != "train")
        for path in self.folder.glob("*.jpg"):
            yield Sample(path, test + int(path.stem) % 50, camera=int(split == "gallery"))


class Plain(Dataset[torch.Tensor]):
    """One image at a time, in floating point."""

    def __init__(self, paths: list[Path], size: tuple[int, int]) -> None:
        self.paths = paths
        self.transform = v1.Compose(
            [
                v1.Resize(size),
                v1.RandomHorizontalFlip(FLIP),
                v1.Pad(PAD),
                v1.RandomCrop(size),
                v1.ToTensor(),
                v1.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
                v1.RandomErasing(ERASE, scale=(0.02, 0.4)),
            ]
        )

    def __getitem__(self, draw: Draw) -> torch.Tensor:
        with Image.open(self.paths[draw.position]) as file:
            return self.transform(file.convert("RGB"))


def make_photographs(folder: Path, count: int, source: tuple[int, int]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = source
    for number in range(count):
        coarse = Image.fromarray(rng.integers(256, size=(height // 16, width // 16, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


def seconds(loader: DataLoader[torch.Tensor]) -> float:
    """For one pass, the start of the workers not counted: it comes once per training."""
    batches = iter(loader)
    next(batches)
    begin = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - begin) / (len(loader) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--source", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="passes of each kind, taken in turn")
    arguments = parser.parse_args()
    if arguments.images < 3 * IDENTITIES * EACH:
        parser.error(f"--images: at least {3 * IDENTITIES * EACH}, which is three batches")
    size = tuple(arguments.size)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        make_photographs(Path(root, "photographs"), arguments.images, tuple(arguments.source))
        dataset = Photographs(Path(root))
        paths = [sample.path for sample in dataset.train]
        augment = train_transform(size, PAD, FLIP, ERASE)
        sources = {
            "fast": Images(paths, size, limit=0),
            "cached": Images(paths, size, cache=Path(root, "cache", "photographs")),
        }
        identities = [sample.identity for sample in dataset.train]

        def sampler() -> PKBatchSampler:
            return PKBatchSampler(identities, IDENTITIES, EACH, seed=0)

        plain = DataLoader(Plain(paths, size), batch_sampler=sampler(), num_workers=arguments.workers)
        loaders: dict[str, DataLoader[torch.Tensor]] = {"plain": plain}
        for name, images in sources.items():
            training = TrainingImages(dataset, images, augment)
            loaders[name] = BatchLoader(training, arguments.workers, "cpu", persistent=False, batch_sampler=sampler())
        times: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(arguments.rounds):
            for name, loader in loaders.items():
                times[name].append(seconds(loader))
    batch = IDENTITIES * EACH
    shapes = f"{tuple(arguments.source)} to {size}"
    print(f"{arguments.images} JPEGs of {shapes}, batches of {batch}, {arguments.workers} workers; medians")
    base = statistics.median(times["plain"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:7} {batch / median:7.0f} images/s   {base / median:5.2f} x plain")


if __name__ == "__main__":
    main()
