"""Trained students in use: embedding images, the Hugging Face Hub, export to other runtimes, and search."""
