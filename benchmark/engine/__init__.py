"""mmengine: the runner that trains, its hooks, and the guards that mmengine 0.10.7 needs."""
