"""Embedding networks: building, editing, measuring, folding and saving them. Plain torch, usable on its own."""
