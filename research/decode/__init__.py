"""Decoding: constraints on logits, greedy decoding, sampling and beam search, and evaluation by generation."""
