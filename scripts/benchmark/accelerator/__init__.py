"""Everything that only an accelerator can tell, by one command: scripts/benchmark/accelerator.sh."""
