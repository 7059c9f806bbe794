"""Memory of a process."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
from benchmark.utils.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def allocate():
    [bytearray(b"1") * (3 << 20) for _ in range(20)]

for keep in (False, True):
    if keep:
        keep_freed_memory()
    allocate()
    before = faults()
    allocate()
    print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_used_again():
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    before, after = map(int, output.split())
    assert after < before / 100
