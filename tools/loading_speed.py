"""Compare the speed of three ways to load a training split, in images per second.

plain   one image at a time: Pillow decodes and resizes it at full size, and torchvision's v1 transforms convert it to
        float32, normalize and augment it (as torchreid does, and fast-reid except for its own augmentation)
fast    the default of this suite: JPEGs decoded at reduced size where that suffices, uint8 throughout, whole batches,
        normalization on the device
cached  like fast, from packed images

All three load batches of the same images: generated JPEGs of smooth noise, quality 90, in a temporary folder.

    python tools/loading_speed.py --source 375 500 --size 256 256
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1

from benchmark.data.augment import train_transform
from benchmark.data.batch import Draw, PKBatchSampler
from benchmark.data.batch_loader import BatchLoader
from benchmark.data.card import Card
from benchmark.data.images import Images
from benchmark.data.loaders import TrainingImages
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import Sample

IDENTITIES, IMAGES = 16, 6
"""P and K of the batches."""
PAD, FLIP, ERASE = 10, 0.5, 0.5


class Photographs(RetrievalDataset):
    """Generated images in a folder, which are also the test images; only training images are loaded."""

    name = "photographs"
    card = Card("Photographs", "", "", "", "")

    def scan(self, split: str) -> Iterator[Sample]:
        test = 1000 * (split != "train")
        for path in self.folder.glob("*.jpg"):
            yield Sample(path, test + int(path.stem) % 50, camera=int(split == "gallery"))


class Plain(Dataset[torch.Tensor]):
    """Single images in floating point."""

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


def generate_photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write JPEG files of (height, width) pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = size
    for number in range(count):
        coarse = Image.fromarray(rng.integers(256, size=(height // 16, width // 16, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


def seconds_per_batch(loader: DataLoader[Any]) -> float:
    """Load all batches. The first batch is not timed, because it includes the start of the workers."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - start) / (len(loader) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--source", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="passes over the images of each loader, alternating")
    arguments = parser.parse_args()
    if arguments.images < 3 * IDENTITIES * IMAGES:
        parser.error(f"--images: must be at least {3 * IDENTITIES * IMAGES}, three batches")
    size = tuple(arguments.size)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        generate_photographs(Path(root, "photographs"), arguments.images, tuple(arguments.source))
        dataset = Photographs(Path(root))
        paths = [sample.path for sample in dataset.train]
        augment = train_transform(size, PAD, FLIP, ERASE)
        sources = {
            "fast": Images(paths, size, limit=0),
            "cached": Images(paths, size, cache=Path(root, "cache", "photographs")),
        }
        identities = [sample.identity for sample in dataset.train]

        sampler = PKBatchSampler(identities, IDENTITIES, IMAGES, seed=0)
        plain = DataLoader(Plain(paths, size), batch_sampler=sampler, num_workers=arguments.workers)
        loaders: dict[str, DataLoader[Any]] = {"plain": plain}
        for name, images in sources.items():
            training = TrainingImages(dataset, images, augment)
            loaders[name] = BatchLoader(
                training,
                sampler,
                batch_size=IDENTITIES * IMAGES,
                workers=arguments.workers,
                device="cpu",
                persistent=False,
            )
        times: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(arguments.rounds):
            for name, loader in loaders.items():
                times[name].append(seconds_per_batch(loader))
    batch = IDENTITIES * IMAGES
    shapes = f"{tuple(arguments.source)} to {size}"
    print(f"{arguments.images} JPEGs of {shapes}, batches of {batch}, {arguments.workers} workers; medians")
    base = statistics.median(times["plain"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:7} {batch / median:7.0f} images/s   {base / median:5.2f} x plain")


if __name__ == "__main__":
    main()
