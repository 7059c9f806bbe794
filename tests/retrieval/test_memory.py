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

queries, images, dimensions, length, identities, per_track = map(int, sys.argv[2:])
torch.set_num_threads(4 if per_track else 2)
generator = torch.Generator().manual_seed(0)
lists = []
for count in (queries, images):
    vectors = torch.nn.functional.normalize(torch.randn(count, dimensions, generator=generator)).mul_(length)
    labels = torch.arange(count) // max(1, per_track)
    owners = torch.randint(identities, (count,), generator=generator)[labels]
    vectors = vectors.half() if per_track else vectors
    lists.append(Embeddings(vectors, owners, tracks=labels))
protocol = Protocol(camera_rule=False, junk=(-1, 3), tracks=bool(per_track))
few = lists[0].take(torch.arange(min(64, queries)))
evaluate(few, few, protocol)
ctypes.CDLL(None).malloc_trim(0)  # what was freed before would not be counted
Path("/proc/self/clear_refs").write_text("5")
before = peak()
known = 0
if sys.argv[1] == "evaluate":
    scores = evaluate(*lists, protocol)
    known = sum(getattr(scores, name).nbytes for name in Scores.per_query())
else:
    matching = Matching(*lists, protocol)
    for blocks in matching.blocks(1):
        matching(slice(blocks[0].start, blocks[0].start + 1))
print((peak() - before) * 1024, (peak() - before) * 1024 - known)
"""


pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")


def measured(sizes: str, what: str = "evaluate") -> list[int]:
    """The most bytes that an evaluation took: beside the embeddings, and beside embeddings and scores."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, what, *sizes.split()], capture_output=True, text=True, check=True
    )
    return list(map(int, done.stdout.split()))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param("20000 1000 2048 3 400 0", id="long vectors"),
        pytest.param("1500 12000 1024 1 400 0", id="large chunks"),
        pytest.param("6000 6000 64 1 400 0", id="short vectors"),
        pytest.param("2000 70000 32 1 400 0", id="large gallery"),
        pytest.param("11659 82161 512 1 3060 0", id="MSMT17"),
        pytest.param("20 10000000 2 1 4000 0", id="very large gallery"),
        pytest.param("4 70000 1024 1 1 0", id="all of one identity"),
        pytest.param("2000 20000 768 1 400 10", id="tracks in half precision"),
        pytest.param("20 4000000 2 1 400 100", id="tracks of a very large gallery"),
    ],
)
def test_less_than_200_megabytes_beside_the_embeddings(sizes: str):
    assert 0 < measured(sizes)[0] < 200e6


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param("1500000 50 4 1 1500000 0", id="of many identities"),
        pytest.param("400000 5000 4 1 5000 0", id="and large chunks"),
    ],
)
def test_of_many_queries_only_the_scores_take_more(sizes: str):
    assert 0 < measured(sizes)[1] < 200e6


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param("1000000 3000000 1 1 1000000 0", id="many queries"),
        pytest.param("1000 10000000 1 1 1000 0", id="many matches"),
    ],
)
def test_labels_of_any_number_take_less_than_120_megabytes(sizes: str):
    assert 0 < measured(sizes, "labels")[0] < 120e6
