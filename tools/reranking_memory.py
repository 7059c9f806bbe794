"""Compare time and memory of k-reciprocal re-ranking with the matrix product of all images.

    python tools/reranking_memory.py                                   # size of Market-1501
    python tools/reranking_memory.py --queries 1678 --gallery 11579    # VeRi-776
    python tools/reranking_memory.py --noise 30                        # an untrained model

Product and re-ranking are timed in turn on the same embeddings, and the best time of each is reported, so that the load
of a shared machine affects both. On a busy machine, use `--threads 1`: several threads would wait for each other. With
one thread on the CPU, the time is processor time. The memory is the growth of the peak size of the process during the
first re-ranking: everything but the vectors, with the scores of one chunk.
"""

import argparse
import resource  # Unix only
import sys
import time
from collections.abc import Callable

import torch

from benchmark.retrieval._chunks import chunks
from benchmark.retrieval.reranking import KReciprocal


def clustered(count: int, centers: torch.Tensor, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Return vectors around the centers of their identities."""
    identities = torch.randint(len(centers), (count,), generator=generator)
    return torch.randn(count, centers.shape[1], generator=generator).mul_(noise).add_(centers[identities])


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that one call takes; processor time with one thread on the CPU."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def peak_megabytes() -> float:
    """Return the peak resident size of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def multiply(query: torch.Tensor, gallery: torch.Tensor) -> None:
    """Multiply all images with all, one chunk of rows at a time."""
    points = torch.cat([query, gallery])
    for rows in chunks(len(points), 4 * len(points)):
        torch.mm(points[rows], points.T)


def rerank(query: torch.Tensor, gallery: torch.Tensor) -> None:
    """Compute the scores of all queries, one chunk of rows at a time."""
    scores = KReciprocal().similarity(query, gallery)
    for rows in chunks(len(query), 4 * len(gallery)):
        scores(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=3_368)
    parser.add_argument("--gallery", type=int, default=15_913)
    parser.add_argument("--size", type=int, default=2_048, help="dimension of the embeddings")
    parser.add_argument("--identities", type=int, default=750)
    parser.add_argument(
        "--noise", type=float, default=3.0, help="noise around a center, in standard deviations of the centers"
    )
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(options.identities, options.size, generator=generator)
    query, gallery = (
        clustered(count, centers, options.noise, generator).to(options.device)
        for count in (options.queries, options.gallery)
    )
    torch.mm(query[:8], gallery[:8].T)  # loads libraries, whose memory does not count
    before = peak_megabytes()
    reranking = [timed(lambda: rerank(query, gallery), options.device)]
    added = peak_megabytes() - before
    product = []
    for repetition in range(options.repeat):
        product.append(timed(lambda: multiply(query, gallery), options.device))
        if repetition:
            reranking.append(timed(lambda: rerank(query, gallery), options.device))
    print(f"{options.queries:,} queries, {options.gallery:,} gallery entries, {options.size} dimensions")
    print(
        f"product of all with all {min(product):.1f} s, re-ranking {min(reranking):.1f} s on {options.device}", end=", "
    )
    print(f"ratio {min(reranking) / min(product):.2f}")
    print(f"memory of the vectors {4 * options.size * (len(query) + len(gallery)) / 2**20:.0f} MB", end=", ")
    print(f"added by the re-ranking {added:.0f} MB")


if __name__ == "__main__":
    main()
