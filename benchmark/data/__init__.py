"""The dataset contract, samplers, transforms and loaders. Plain torch; usable alone."""
