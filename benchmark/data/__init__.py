"""Datasets and loaders: the dataset contract, its checks, image decoding, samplers and loaders.

Plain torch, usable without the rest of the suite.
"""

from benchmark.utils.variables import default_data_root as default_data_root
