"""Tables, plots and pages of runs, sweeps and comparisons, fits to their numbers, and trackers."""
