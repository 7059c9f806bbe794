"""Compare the time of the exact evaluation with that of the matrix product of queries and gallery.

    python tools/retrieval_speed.py                    # sizes of four datasets
    python tools/retrieval_speed.py msmt17 --repeat 2
    python tools/retrieval_speed.py cub200 --noise 3   # a poor model

The product is the fastest that torch offers for these shapes: by torch.mm or oneDNN, of the whole lists or of some
queries at a time. Product and evaluation are timed in turn on the same embeddings, and the best time of each is
reported, so that the load of a shared machine affects both. On a busy machine, use `--threads 1`: several threads would
wait for each other. On the CPU, the peak memory added by the evaluation is reported too.
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
    """Size of a dataset, and the standard deviation of images around the center of their identity."""

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


def clustered(count: int, centers: torch.Tensor, noise: float, generator: torch.Generator) -> Embeddings:
    """Return unit vectors around the centers of their identities, seen by 20 cameras."""
    identities = torch.randint(len(centers), (count,), generator=generator)
    vectors = torch.randn(count, centers.shape[1], generator=generator).mul_(noise).add_(centers[identities])
    cameras = torch.randint(20, (count,), generator=generator)
    return Embeddings(torch.nn.functional.normalize(vectors), identities, cameras)


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_memory(reset: bool = False) -> float:
    """Return the peak memory of this process in MiB since the last reset; 0 on other systems than Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    if reset:
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # memory freed before would not be counted if it was used again
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def products(query: torch.Tensor, gallery: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Return functions that compute all inner products, by name."""

    def in_chunks(rows: int, product: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            with full_precision(query.device):
                for chunk in query.split(rows):
                    product(chunk)

        return run

    transposed = gallery.T
    functions = {
        f"torch.mm of {rows} queries": in_chunks(rows, lambda chunk: torch.mm(chunk, transposed))
        for rows in (256, 1_024, len(query))
    }
    if query.device.type == "cpu" and torch.backends.mkldnn.is_available():
        one_dnn = torch.ops.mkldnn._linear_pointwise  # torch's only interface to oneDNN's float32 product
        for rows in (1_024, len(query)):
            functions[f"oneDNN of {rows} queries"] = in_chunks(
                rows, lambda chunk: one_dnn(chunk, gallery, None, "none", [], "")
            )
    return functions


def measure(name: str, size: Size, repeat: int, threads: int, device: torch.device) -> None:
    """Print the time and memory of an evaluation of this size."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(size.identities, size.dimensions, generator=generator)
    counts = (size.queries,) if size.one_list else (size.queries, size.gallery)
    on_cpu = [clustered(count, centers, size.noise, generator) for count in counts]
    lists = [embeddings.to(device) for embeddings in on_cpu]
    query, gallery = lists[0], lists[-1]
    protocol = Protocol(camera_rule=not size.one_list, query_in_gallery=size.one_list)
    searched = None if size.one_list else gallery
    small = query.take(torch.arange(64, device=device))
    evaluate(small, small, Protocol(camera_rule=False))  # loads libraries
    before = peak_memory(reset=True)
    scores = evaluate(query, searched, protocol)
    memory = peak_memory() - before
    functions = products(query.vectors, gallery.vectors)
    fastest = min(functions, key=lambda name: min(timed(functions[name], device) for _ in range(3)))
    product = evaluation = float("inf")
    for _ in range(repeat):
        product = min(product, timed(functions[fastest], device))
        evaluation = min(evaluation, timed(lambda: evaluate(query, searched, protocol), device))
    print(f"{name}: {size.queries:,} x {size.gallery:,} x {size.dimensions}, mAP {scores.mAP:.3f}")
    print(f"  {fastest} {product:.3f} s, evaluate {evaluation:.3f} s on {device}", end=", ")
    print(f"ratio {evaluation / product:.2f}" + (f", {memory:.0f} MiB" if device.type == "cpu" else ""), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"{', '.join(SIZES)}; default: all but msmt17")
    parser.add_argument("--noise", type=float, help="noise around a center, in standard deviations of the centers")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    unknown = sorted(set(options.sizes) - set(SIZES))
    if unknown:
        sys.exit(f"unknown size {unknown[0]!r}: choose from {', '.join(SIZES)}")
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
