"""Scoring of texts without JAX: metrics, files of outputs, paired significance tests."""
