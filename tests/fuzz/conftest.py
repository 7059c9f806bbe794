"""The loop of the fuzz tests: rounds of random mutations, for some seconds per test.

The random numbers of a round depend on nothing but the seed and the number of the round, and a failure ends with both.
This repeats the failed round, and then goes on with the next ones:

    BENCHMARK_FUZZ_SEED=1 BENCHMARK_FUZZ_ROUND=2345 pytest -m slow tests/fuzz/test_data.py::test_images

With another seed, and with more seconds per test in BENCHMARK_FUZZ_SECONDS, other inputs are tried.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator

import pytest

SEED = int(os.environ.get("BENCHMARK_FUZZ_SEED", "0"))
FIRST_ROUND = int(os.environ.get("BENCHMARK_FUZZ_ROUND", "0"))
SECONDS = float(os.environ.get("BENCHMARK_FUZZ_SECONDS", "3"))
"""Time for each test; at least `MIN_ROUNDS` are made."""
MIN_ROUNDS = 20
CURRENT = pytest.StashKey[int]()
"""Number of the round in which a test is."""
COUNT = pytest.StashKey[int]()
"""Number of rounds that a test has begun."""


@pytest.fixture
def rounds(request) -> Callable[[], Iterator[random.Random]]:
    """`for choose in rounds():` repeats its body with other random numbers until the time of the test is over."""
    stash = request.node.stash

    def generators() -> Iterator[random.Random]:
        end = time.monotonic() + SECONDS
        for count in itertools.count():
            if count >= MIN_ROUNDS and time.monotonic() > end:
                break
            stash[CURRENT], stash[COUNT] = FIRST_ROUND + count, count + 1
            yield random.Random(f"{SEED} {FIRST_ROUND + count}")
        del stash[CURRENT]

    return generators


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Name the round that failed, and report the number of rounds, which tests/conftest.py sums up."""
    try:
        return (yield)
    except BaseException as error:
        if CURRENT in item.stash:
            error.add_note(f"repeat this with BENCHMARK_FUZZ_SEED={SEED} BENCHMARK_FUZZ_ROUND={item.stash[CURRENT]}")
        raise
    finally:
        item.user_properties.append(("fuzz_rounds", item.stash.get(COUNT, 0)))
