"""Many runs at a time: methods x datasets x seeds, in processes here or on a Ray cluster."""
