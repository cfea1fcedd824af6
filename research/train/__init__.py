"""The training step, the optimizer, and the run: its start, its loop, its log and its end."""
