"""Tables, plots and pages of runs, sweeps and comparisons, and fits to their numbers."""
