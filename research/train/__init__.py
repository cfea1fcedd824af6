"""The training step, the optimizer, and the run: its start, loop, log and end."""
