"""Peak memory of an evaluation, measured in a separate process."""

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import ctypes
import sys
from pathlib import Path
import torch
from benchmark.retrieval import Embeddings, Protocol, Scores, evaluate
from benchmark.retrieval._matching import Matching

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])

queries, images, dimension, norm, identities, images_per_track = map(int, sys.argv[2:])
torch.set_num_threads(4 if images_per_track else 2)
generator = torch.Generator().manual_seed(0)
lists = []
for count in (queries, images):
    vectors = torch.nn.functional.normalize(torch.randn(count, dimension, generator=generator)).mul_(norm)
    tracks = torch.arange(count) // max(1, images_per_track)
    labels = torch.randint(identities, (count,), generator=generator)[tracks]
    vectors = vectors.half() if images_per_track else vectors
    lists.append(Embeddings(vectors, labels, tracks=tracks))
protocol = Protocol(camera_rule=False, junk=(-1, 3), tracks=bool(images_per_track))
few = lists[0].take(torch.arange(min(64, queries)))
evaluate(few, few, protocol)  # loads libraries
ctypes.CDLL(None).malloc_trim(0)  # memory freed before would not be counted if it was used again
Path("/proc/self/clear_refs").write_text("5")
before = peak()
score_bytes = 0
if sys.argv[1] == "matching":
    matching = Matching(*lists, protocol)
    for blocks in matching.blocks(1):
        matching(slice(blocks[0].start, blocks[0].start + 1))
else:
    scores = evaluate(*lists, protocol)
    score_bytes = sum(getattr(scores, name).nbytes for name in Scores.per_query())
print((peak() - before) * 1024, score_bytes)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory accounting")


def measure(what: str, sizes: str) -> tuple[int, int]:
    """Return the bytes added by an evaluation or by matching alone, and the bytes of the scores among them."""
    command = [sys.executable, "-c", MEASURE, what, *sizes.split()]
    added, scores = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(added), int(scores)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param("6000 6000 64 1 400 0", id="short vectors"),
        *(
            pytest.param(sizes, id=name, marks=pytest.mark.slow)
            for name, sizes in {
                "long vectors": "20000 1000 2048 3 400 0",
                "large chunks": "1500 12000 1024 1 400 0",
                "large gallery": "2000 70000 32 1 400 0",
                "MSMT17": "11659 82161 512 1 3060 0",
                "very large gallery": "20 10000000 2 1 4000 0",
                "one identity": "4 70000 1024 1 1 0",
                "tracks in half precision": "2000 20000 768 1 400 10",
                "tracks of a very large gallery": "20 4000000 2 1 400 100",
            }.items()
        ),
    ],
)
def test_evaluation_adds_less_than_200_megabytes(sizes: str):
    added, _ = measure("evaluate", sizes)
    assert 0 < added < 200e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param("1500000 50 4 1 1500000 0", id="many identities"),
        pytest.param("400000 5000 4 1 5000 0", id="large chunks"),
    ],
)
def test_many_queries_add_only_their_scores(sizes: str):
    added, scores = measure("evaluate", sizes)
    assert 0 < added - scores < 200e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param("1000000 3000000 1 1 1000000 0", id="many queries"),
        pytest.param("1000 10000000 1 1 1000 0", id="many matches"),
    ],
)
def test_matching_adds_less_than_120_megabytes(sizes: str):
    added, _ = measure("matching", sizes)
    assert 0 < added < 120e6
