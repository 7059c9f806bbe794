"""Many runs: methods x datasets x seeds, in local processes or on a Ray cluster."""
