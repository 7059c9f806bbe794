"""Compactors: 1x1 convolutions that start as the identity, lose rows, and are folded into the layer beside them.

What the methods share that compress with them; plain torch.
"""
