"""Losses that the engine and several methods share, as plain functions of tensors.

Each is written from its equation, computes in float32 at least, whatever autocast says, and has finite gradients where
the equation has a kink (coincident points).
"""
