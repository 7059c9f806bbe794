import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import sys
from pathlib import Path
import torch
from benchmark.retrieval import Embeddings, Protocol, Scores, evaluate
from benchmark.retrieval.matching import Matching

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])

queries, images, dimensions, length, identities, per_track = map(int, sys.argv[1:])
torch.set_num_threads(4 if per_track else 2)
generator = torch.Generator().manual_seed(0)
lists = []
for count in (queries, images):
    vectors = torch.nn.functional.normalize(torch.randn(count, dimensions, generator=generator)).mul_(length)
    labels = torch.arange(count) // max(1, per_track)
    owners = torch.randint(identities, (count,), generator=generator)[labels]
    vectors = vectors.half() if per_track else vectors
    lists.append(Embeddings(vectors, owners, tracks=labels))
protocol = Protocol(camera_rule=False, tracks=bool(per_track))
few = lists[0].take(torch.arange(min(64, queries)))
evaluate(few, few, protocol)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
if not per_track:
    Matching(*lists, protocol)
sorting = peak() - before  # at which time there are no scores
scores = evaluate(*lists, protocol)
known = sum(getattr(scores, name).nbytes for name in Scores.per_query())
print((peak() - before) * 1024, max(sorting * 1024, (peak() - before) * 1024 - known))
"""


pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")


def measured(sizes: str) -> list[int]:
    """The most bytes that an evaluation took: beside the embeddings, and beside embeddings and scores."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *sizes.split()], capture_output=True, text=True, check=True)
    return list(map(int, done.stdout.split()))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param("20000 1000 2048 3 400 0", id="long vectors"),
        pytest.param("1500 12000 1024 1 400 0", id="large chunks"),
        pytest.param("6000 6000 64 1 400 0", id="short vectors"),
        pytest.param("2000 70000 32 1 400 0", id="large gallery"),
        pytest.param("20 10000000 2 1 4000 0", id="very large gallery"),
        pytest.param("4 70000 1024 1 1 0", id="all of one identity"),
        pytest.param("2000 20000 768 1 400 10", id="tracks in half precision"),
    ],
)
def test_less_than_200_megabytes_beside_the_embeddings(sizes: str):
    assert 0 < measured(sizes)[0] < 200e6


def test_of_many_queries_only_the_scores_take_more():
    assert 0 < measured("1500000 50 4 1 1500000 0")[1] < 200e6
