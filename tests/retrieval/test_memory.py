import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import sys
from pathlib import Path
import torch
from benchmark.retrieval import Embeddings, Protocol, evaluate

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])

queries, images, dimensions, length = map(int, sys.argv[1:])
torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
lists = []
for count in (queries, images):
    vectors = torch.nn.functional.normalize(torch.randn(count, dimensions, generator=generator)).mul_(length)
    lists.append(Embeddings(vectors, torch.randint(400, (count,), generator=generator)))
few = lists[0].take(torch.arange(64))
evaluate(few, few, Protocol(camera_rule=False))
Path("/proc/self/clear_refs").write_text("5")
before = peak()
evaluate(*lists, Protocol(camera_rule=False))
print((peak() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(
    ("queries", "images", "dimensions", "length"),
    [(20_000, 1_000, 2_048, 3), (1_500, 12_000, 1_024, 1), (6_000, 6_000, 64, 1), (2_000, 70_000, 32, 1)],
    ids=["long vectors", "large chunks", "short vectors", "large gallery"],
)
def test_less_than_200_megabytes_beside_the_embeddings(queries, images, dimensions, length):
    sizes = [str(size) for size in (queries, images, dimensions, length)]
    measured = subprocess.run([sys.executable, "-c", MEASURE, *sizes], capture_output=True, text=True, check=True)
    assert 0 < int(measured.stdout) < 200e6
