"""Trackers: W&B, MLflow and trackio. Each gets a run's records from a process of its own.

A tracker is a Logger that writes nothing itself. It starts `follow.py`, which reads the files of the run directory as
they grow (metrics.jsonl, samples.jsonl, RESULT.json, loss.png) and sends their content. A server that is down or slow
costs the run nothing: what is not sent yet waits in the files.
"""
