"""From logits to text: rules over logits, greedy search, sampling and beam search, and evaluation by generation."""
