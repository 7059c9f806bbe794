"""Distillation methods, one file or folder each. Every method registers itself, so none is listed here."""
