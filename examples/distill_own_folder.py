"""Distill a small network on your own images, and compare it with the same network trained alone.

The images are in one folder per identity (see docs/datasets.md for splits and cameras):

    my_images/ada/1.jpg  my_images/ada/2.jpg  my_images/bob/1.jpg ...

Usage:
    python examples/distill_own_folder.py my_images                    # ImageNet weights: timm downloads them once
    python examples/distill_own_folder.py my_images --weights random   # without a network connection
"""

import argparse
from pathlib import Path
from typing import Any

from benchmark import Record, run


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """Return a small recipe: ResNet-50 to ResNet-18, few epochs, batches of `identities` x `images` images."""
    train = {
        "schedule": {"epochs": options.epochs, "warmup_epochs": 0, "constant_until": options.epochs // 2},
        "sampler": {"identities": options.identities, "images": 4},
    }
    return {
        "dataset": {"path": str(options.folder)},
        "image_size": [options.size, options.size],
        "teacher": {"network": {"backbone": options.teacher, "weights": options.weights}, "train": train},
        "student": {"backbone": options.student, "weights": options.weights},
        "train": train,
    }


def main(arguments: list[str] | None = None) -> list[Record]:
    parser = argparse.ArgumentParser(description="Distill a small network on your own images.")
    parser.add_argument("folder", type=Path, help="a folder per identity, or a CSV file")
    parser.add_argument("--methods", nargs="+", default=["none", "kd"], help="methods to compare")
    parser.add_argument("--teacher", default="resnet50", help="backbone of the teacher")
    parser.add_argument("--student", default="resnet18", help="backbone of the student")
    parser.add_argument("--weights", default="imagenet", help="imagenet or random")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--identities", type=int, default=8, help="number of identities in a batch")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--work-dir", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)

    # A run that already has a record in the work folder is not repeated, and all methods share one teacher.
    records = [
        run(method, "folder", config=recipe(options), work_dir=options.work_dir, resume=True)
        for method in options.methods
    ]
    print(f"{'':<20}{'mAP':>8}{'R@1':>8}{'MACs':>10}")
    teacher = records[0].teacher
    if teacher is not None:
        rows = [("teacher", teacher.scores, teacher.cost)]
        rows += [(record.method, record.scores.symmetric, record.network.cost) for record in records]
        for name, scores, cost in rows:
            print(f"{name:<20}{100 * scores.mAP:8.1f}{100 * scores.recall['1']:8.1f}{cost.macs / 1e6:8.0f} M")
    return records


if __name__ == "__main__":
    main()
