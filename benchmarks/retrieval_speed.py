"""Time exact retrieval evaluation against the matrix product that it cannot do without.

    python benchmarks/retrieval_speed.py                                    # the size of VeRi-776
    python benchmarks/retrieval_speed.py --queries 5924 --gallery 5924 --size 512 --identities 100      # CUB-200-2011
    python benchmarks/retrieval_speed.py --noise 30                         # a model that has learned nothing

Both are timed in turn on the same embeddings, and the best of the repetitions counts, so that the load of a shared
machine weighs on neither alone. Beside other work, `--threads 1` spares the threads' waiting for each other.
"""

import argparse
import time
from collections.abc import Callable

import torch

from benchmark.retrieval import Embeddings, Protocol, evaluate


def clustered(count: int, centres: torch.Tensor, noise: float, generator: torch.Generator) -> Embeddings:
    """Embeddings around the centre of their identity, seen by 20 cameras."""
    identities = torch.randint(len(centres), (count,), generator=generator)
    vectors = torch.randn(count, centres.shape[1], generator=generator).mul_(noise).add_(centres[identities])
    cameras = torch.randint(20, (count,), generator=generator)
    return Embeddings(vectors, identities, cameras)


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1_678)
    parser.add_argument("--gallery", type=int, default=11_579)
    parser.add_argument("--size", type=int, default=2_048, help="dimensions of an embedding")
    parser.add_argument("--identities", type=int, default=200)
    parser.add_argument("--noise", type=float, default=3.0, help="distance from the centre; the centres' spread is 1")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(options.identities, options.size, generator=generator)
    lists = [clustered(count, centres, options.noise, generator) for count in (options.queries, options.gallery)]
    query, gallery = (
        Embeddings(*(tensor.to(options.device) for tensor in (part.vectors, part.identities, part.cameras)))
        for part in lists
    )
    scores = evaluate(query, gallery, Protocol())
    product, evaluation = [], []
    for _ in range(options.repeat):
        product.append(timed(lambda: torch.mm(query.vectors, gallery.vectors.T), options.device))
        evaluation.append(timed(lambda: evaluate(query, gallery, Protocol()), options.device))
    print(f"{options.queries:,} queries, {options.gallery:,} gallery entries, {options.size} dimensions")
    print(f"mAP {scores.mAP:.4f}, mINP {scores.mINP:.4f}, R@1 {scores.recall[1]:.4f}, skipped {scores.skipped}")
    print(f"torch.mm alone {min(product):.3f} s, evaluate {min(evaluation):.3f} s on {options.device}", end=", ")
    print(f"ratio {min(evaluation) / min(product):.2f}")


if __name__ == "__main__":
    main()
