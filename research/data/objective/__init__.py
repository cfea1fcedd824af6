"""The shipped objectives and what they are made of.

An objective each: span_corruption, replace_spans, drop_tokens, bert_style (MASS-style too), deshuffling, prefix_lm,
language_modelling and bart, whose corruptions are in words and whose permutation and rotation are in sentences. ul2 is
a mixture of several.

Shared: rows (corrupted text to a batch in the tokenizer's frame), iid (noise drawn token by token), choice (random
subsets) and checks (every objective is tried on a few rows before training).
"""
