"""Texts scored without JAX: metrics, files of outputs, paired significance tests."""
