"""Estimates of a run's cost before its launch: roofline, memory, and steps compiled for absent hardware."""
