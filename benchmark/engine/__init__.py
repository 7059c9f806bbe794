"""Training with mmengine: the runner, its hooks, and workarounds for mmengine 0.10.7."""
