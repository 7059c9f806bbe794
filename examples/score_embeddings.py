"""Score your own embeddings: exact mAP and Recall@K of the vectors of any model.

Usage:
    python examples/score_embeddings.py                    # random embeddings, to see the output
    python examples/score_embeddings.py mine.npz           # arrays query, query_ids, gallery, gallery_ids
    python examples/score_embeddings.py mine.npz --cameras # also query_cams, gallery_cams: apply the camera rule
"""

import argparse
from pathlib import Path

import numpy as np

from benchmark import Embeddings, Protocol, Scores, evaluate


def random_arrays(queries: int = 100, images: int = 1000, identities: int = 20, dim: int = 64) -> dict[str, np.ndarray]:
    """Return random embeddings in overlapping clusters, one cluster per identity."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(identities, dim))
    arrays = {}
    for name, count in (("query", queries), ("gallery", images)):
        ids = rng.integers(identities, size=count)
        arrays |= {
            name: centers[ids] + 2 * rng.normal(size=(count, dim)),
            f"{name}_ids": ids,
            f"{name}_cams": rng.integers(6, size=count),
        }
    return arrays


def score(arrays: dict[str, np.ndarray], cameras: bool) -> Scores:
    """Evaluate the arrays of a file.

    Args:
        arrays: `query` and `gallery`, (N, D) floating point; `query_ids` and `gallery_ids`, (N,) integers; with
            `cameras` also `query_cams` and `gallery_cams`, (N,) integers.
        cameras: Whether to ignore gallery images of the query's identity and camera.
    """
    query, gallery = (
        Embeddings(arrays[name], arrays[f"{name}_ids"], arrays[f"{name}_cams"] if cameras else None)
        for name in ("query", "gallery")
    )
    return evaluate(query, gallery, Protocol(camera_rule=cameras, recall_at=(1, 5, 10)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Score embeddings exactly.")
    parser.add_argument("file", nargs="?", type=Path, help="a .npz file; random embeddings if left out")
    parser.add_argument("--cameras", action="store_true", help="apply the camera rule of re-identification")
    options = parser.parse_args(arguments)
    arrays = random_arrays() if options.file is None else dict(np.load(options.file))
    scores = score(arrays, options.cameras)
    print(f"mAP  {100 * scores.mAP:6.2f} %")
    print(f"mINP {100 * scores.mINP:6.2f} %")
    for k, recall in scores.recall.items():
        print(f"R@{k:<3}{100 * recall:6.2f} %")
    print(f"{scores.queries} queries, {scores.skipped} of them without a correct match")
    worst = scores.average_precision.nan_to_num(nan=2).argsort()[:5]
    print("queries with the lowest average precision:", ", ".join(str(int(query)) for query in worst))


if __name__ == "__main__":
    main()
