"""Time exact retrieval evaluation against the matrix product that it cannot do without.

    python tools/retrieval_speed.py                    # at the sizes of four datasets
    python tools/retrieval_speed.py msmt17 --repeat 2
    python tools/retrieval_speed.py cub200 --noise 3   # a bad model

The product is the best of those that torch offers for the same shapes: of MKL or oneDNN, of the whole lists or of some
queries at a time. That one and the evaluation are then timed in turn, on the same embeddings, and the best time of each
counts, so that the load of a shared machine weighs on neither alone. Beside other work, `--threads 1` spares the
threads' waiting for each other. Memory is the peak beyond what the process held before, on the CPU.
"""

import argparse
import ctypes
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmark.retrieval import Embeddings, Protocol, evaluate
from benchmark.utils.precision import full_precision


class Size(NamedTuple):
    """Numbers of queries, gallery images, dimensions and test identities; and how far from its centre an image lies."""

    queries: int
    gallery: int
    dimensions: int
    identities: int
    noise: float
    one_list: bool = False


SIZES = {
    "veri776": Size(1_678, 11_579, 2_048, 200, 3.5),
    "market1501": Size(3_368, 15_913, 2_048, 750, 3.3),
    "cub200": Size(5_924, 5_924, 512, 100, 2.5, one_list=True),
    "inshop": Size(14_218, 12_612, 512, 3_985, 2.1),
    "msmt17": Size(11_659, 82_161, 512, 3_060, 2.1),
}


def clustered(count: int, centres: torch.Tensor, noise: float, generator: torch.Generator) -> Embeddings:
    """Embeddings of unit length around the centre of their identity, seen by 20 cameras."""
    identities = torch.randint(len(centres), (count,), generator=generator)
    vectors = torch.randn(count, centres.shape[1], generator=generator).mul_(noise).add_(centres[identities])
    cameras = torch.randint(20, (count,), generator=generator)
    return Embeddings(torch.nn.functional.normalize(vectors), identities, cameras)


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak(forget: bool = False) -> float:
    """The most memory that this process has held, in MiB, since that was last forgotten; 0 elsewhere than on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    if forget:
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # what was freed, but kept for later, would not be counted
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def products(query: torch.Tensor, gallery: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Ways to compute all inner products, by name."""

    def in_parts(rows: int, product: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            with full_precision(query.device):
                for part in query.split(rows):
                    product(part)

        return run

    transposed = gallery.T
    ways = {
        f"torch.mm of {rows} queries": in_parts(rows, lambda part: torch.mm(part, transposed))
        for rows in (256, 1_024, len(query))
    }
    if query.device.type == "cpu" and torch.backends.mkldnn.is_available():
        one_dnn = torch.ops.mkldnn._linear_pointwise
        for rows in (1_024, len(query)):
            ways[f"oneDNN of {rows} queries"] = in_parts(
                rows, lambda part: one_dnn(part, gallery, None, "none", [], "")
            )
    return ways


def measure(name: str, size: Size, repeat: int, threads: int, device: torch.device) -> None:
    """Print what an evaluation of this size takes."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(size.identities, size.dimensions, generator=generator)
    counts = (size.queries,) if size.one_list else (size.queries, size.gallery)
    lists = [clustered(count, centres, size.noise, generator) for count in counts]
    moved = [
        Embeddings(*(tensor.to(device) for tensor in (part.vectors, part.identities, part.cameras))) for part in lists
    ]
    query, gallery = moved[0], moved[-1]
    protocol = Protocol(camera_rule=not size.one_list, query_in_gallery=size.one_list)
    searched = None if size.one_list else gallery
    small = query.take(torch.arange(64, device=device))
    evaluate(small, small, Protocol(camera_rule=False))  # libraries are loaded
    before = peak(forget=True)
    scores = evaluate(query, searched, protocol)
    memory = peak() - before
    ways = products(query.vectors, gallery.vectors)
    fastest = min(ways, key=lambda way: min(timed(ways[way], device) for _ in range(3)))
    product = evaluation = float("inf")
    for _ in range(repeat):
        product = min(product, timed(ways[fastest], device))
        evaluation = min(evaluation, timed(lambda: evaluate(query, searched, protocol), device))
    print(f"{name}: {size.queries:,} x {size.gallery:,} x {size.dimensions}, mAP {scores.mAP:.3f}")
    print(f"  {fastest} {product:.3f} s, evaluate {evaluation:.3f} s on {device}", end=", ")
    print(f"ratio {evaluation / product:.2f}" + (f", {memory:.0f} MiB" if device.type == "cpu" else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"of {', '.join(SIZES)}; all but msmt17 where none")
    parser.add_argument("--noise", type=float, help="distance from the centre; the centres' spread is 1")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    unknown = sorted(set(options.sizes) - set(SIZES))
    if unknown:
        sys.exit(f"unknown size {unknown[0]!r}: choose of {', '.join(SIZES)}")
    spawn = multiprocessing.get_context("spawn")
    for name in options.sizes or list(SIZES)[:4]:
        size = SIZES[name] if options.noise is None else SIZES[name]._replace(noise=options.noise)
        arguments = (name, size, options.repeat, options.threads, options.device)
        process = spawn.Process(target=measure, args=arguments)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{name} failed")


if __name__ == "__main__":
    main()
