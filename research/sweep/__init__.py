"""Many runs of one experiment: variants, on this machine, on SLURM, or proposed by a search."""
