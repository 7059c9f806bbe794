"""Pruning of channels by compactors: 1x1 convolutions that start as the identity and lose rows or columns.

Shared by the methods that compress the student. Plain torch, usable on its own.
"""
