"""Exact retrieval evaluation: ranking and metrics. Plain torch; usable alone."""
