"""Maps over items with threads."""

from collections.abc import Iterator

from benchmark.utils.parallel import parallel_imap


def test_lazy_map_reads_a_bounded_number_of_items(monkeypatch):
    monkeypatch.setattr("benchmark.utils.parallel.cores", lambda: 2)
    read = []

    def items() -> Iterator[int]:
        for item in range(100):
            read.append(item)
            yield item

    results = parallel_imap(lambda item: -item, items())
    assert next(results) == 0 and len(read) == 17  # 8 for each of two threads, and the one returned
    assert list(results) == [-item for item in range(1, 100)]
