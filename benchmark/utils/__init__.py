"""General helpers. They import nothing else of this package but `benchmark.errors`."""
