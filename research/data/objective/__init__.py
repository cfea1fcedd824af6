"""The shipped objectives and their shared code.

One module per objective: span_corruption, replace_spans, drop_tokens, bert_style (also MASS-style), deshuffling,
prefix_lm, language_modelling and bart. bart's corruptions are in words, its permutation and rotation in sentences. ul2
is a mixture of several objectives.

Shared: rows (corrupted text to a batch with special tokens), iid (noise drawn token by token), choice (random subsets)
and checks (every objective is tried on a few rows before training).
"""
