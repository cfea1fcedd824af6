"""Marian in NumPy: files with random weights, and the outputs that Marian computes from them."""

from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEADS, INNER, LAYERS, VOCAB = 12, 3, 20, {"encoder": 2, "decoder": 3}, 17
# In Marian's format: sorted, with empty strings and flags written like this.
YAML = """bert-train-type-embeddings: true
dec-cell: gru
dec-depth: 3
dim-emb: 12
dim-rnn: 1024
dim-vocabs:
  - {source}
  - 17
enc-depth: 2
input-types:
  []
layer-normalization: false
lemma-dim-emb: 0
right-left: false
skip: false
tied-embeddings: {tied}
tied-embeddings-all: {every}
tied-embeddings-src: {shared}
transformer-decoder-autoreg: self-attention
transformer-dim-ffn: 20
transformer-ffn-activation: {activation}
transformer-ffn-depth: 2
transformer-heads: 3
transformer-no-projection: false
transformer-postprocess: {post}
transformer-postprocess-emb: {emb}
transformer-postprocess-top: {top}
transformer-preprocess: {pre}
transformer-tied-layers:
  []
transformer-train-position-embeddings: false
type: transformer
ulr: false
version: v1.9.0 2020-03-10 21:00:00 +0000
"""
POST_NORM = dict(post="dan", emb="d", top='""', pre='""')
OWN = dict(source=VOCAB, tied="false", every="true", shared="false", activation="relu", **POST_NORM)
VARIANTS: dict[str, dict[str, Any]] = {
    "base": OWN,
    "swish": OWN | dict(activation="swish"),
    "prenorm": OWN | dict(post="da", top="n", pre="n", emb="nd"),
    "two vocabularies": OWN | dict(source=19, every="false", tied="true"),
    "own head": OWN | dict(every="false", shared="true"),
}


def make(options: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Draw random weights under Marian's names, with vectors as [1, n]."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(0, 0.4, shape).astype(np.float32)

    before = "_pre" if options["pre"] == "n" else ""
    arrays = {"decoder_ff_logit_out_b": normal(1, VOCAB)}
    if options["every"] == "true" or options["shared"] == "true":
        arrays["Wemb"] = normal(VOCAB, WIDTH)
    else:
        arrays |= {"encoder_Wemb": normal(options["source"], WIDTH), "decoder_Wemb": normal(VOCAB, WIDTH)}
    if options["every"] == options["tied"] == "false":
        arrays["decoder_ff_logit_out_Wt"] = normal(VOCAB, WIDTH)
    norms = []
    for stack, count in LAYERS.items():
        norms += [f"{stack}_emb_ln_{{}}_pre"] * ("n" in options["emb"]) + [f"{stack}_top_ln_{{}}"] * bool(before)
        for layer in range(1, count + 1):
            prefix = f"{stack}_l{layer}_"
            for block in ("self", "context") if stack == "decoder" else ("self",):
                arrays |= {f"{prefix}{block}_W{part}": normal(WIDTH, WIDTH) for part in "qkvo"}
                arrays |= {f"{prefix}{block}_b{part}": normal(1, WIDTH) for part in "qkvo"}
                norms.append(f"{prefix}{block}_Wo_ln_{{}}{before}")
            arrays |= {f"{prefix}ffn_W1": normal(WIDTH, INNER), f"{prefix}ffn_b1": normal(1, INNER)}
            arrays |= {f"{prefix}ffn_W2": normal(INNER, WIDTH), f"{prefix}ffn_b2": normal(1, WIDTH)}
            norms.append(f"{prefix}ffn_ffn_ln_{{}}{before}")
    for norm in norms:
        arrays |= {norm.format("scale"): 1 + normal(1, WIDTH), norm.format("bias"): normal(1, WIDTH)}
    return arrays


def save(path: Path, arrays: dict[str, Any], text: str) -> Path:
    content = np.frombuffer(text.encode() + b"\0", np.int8)
    np.savez(path, **arrays, **{"special:model.yml": content})
    return path


class Native:
    """Marian's src/models/transformer.h in NumPy, in float64, for rows without padding."""

    def __init__(self, arrays: dict[str, np.ndarray], options: dict[str, Any]) -> None:
        self.arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
        self.options = {name: "" if value == '""' else value for name, value in options.items()}

    def process(self, ops: str, x, previous, prefix: str, suffix: str = ""):
        for op in ops:
            if op == "a":
                x = x + previous
            if op == "n":
                centred = x - x.mean(-1, keepdims=True)
                x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
                x = x * self.arrays[f"{prefix}_ln_scale{suffix}"] + self.arrays[f"{prefix}_ln_bias{suffix}"]
        return x

    def embed(self, stack: str, tokens):
        table = self.arrays["Wemb" if "Wemb" in self.arrays else f"{stack}_Wemb"]
        x = np.where((tokens < len(table))[:, None], table[np.minimum(tokens, len(table) - 1)], 0)
        half = WIDTH // 2
        angle = np.arange(len(tokens))[:, None] * np.exp(-np.arange(half) * np.log(1e4) / (half - 1))
        x = np.sqrt(WIDTH) * x + np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
        return self.process(self.options["emb"], x, None, f"{stack}_emb", "_pre")

    def attention(self, prefix: str, x, memory, causal: bool):
        y = self.process(self.options["pre"], x, None, f"{prefix}_Wo", "_pre")
        memory = y if memory is None else memory
        query, key, value = (
            (z @ self.arrays[f"{prefix}_W{part}"] + self.arrays[f"{prefix}_b{part}"]).reshape(len(z), HEADS, -1)
            for part, z in zip("qkv", (y, memory, memory), strict=True)
        )
        scores = np.einsum("thk,shk->hts", query, key) / np.sqrt(WIDTH // HEADS)
        if causal:
            scores = np.where(np.tril(np.ones(scores.shape[1:])) > 0, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        joined = np.einsum("hts,shk->thk", weights, value).reshape(len(x), WIDTH)
        y = joined @ self.arrays[f"{prefix}_Wo"] + self.arrays[f"{prefix}_bo"]
        return self.process(self.options["post"], y, x, f"{prefix}_Wo")

    def feed_forward(self, prefix: str, x):
        y = self.process(self.options["pre"], x, None, f"{prefix}_ffn", "_pre")
        y = y @ self.arrays[f"{prefix}_W1"] + self.arrays[f"{prefix}_b1"]
        y = np.maximum(y, 0) if self.options["activation"] == "relu" else y / (1 + np.exp(-y))
        y = y @ self.arrays[f"{prefix}_W2"] + self.arrays[f"{prefix}_b2"]
        return self.process(self.options["post"], y, x, f"{prefix}_ffn")

    def stack(self, stack: str, tokens, context=None):
        x = self.embed(stack, tokens)
        for layer in range(1, LAYERS[stack] + 1):
            x = self.attention(f"{stack}_l{layer}_self", x, None, causal=stack == "decoder")
            if context is not None:
                x = self.attention(f"{stack}_l{layer}_context", x, context, causal=False)
            x = self.feed_forward(f"{stack}_l{layer}_ffn", x)
        return self.process(self.options["top"], x, None, f"{stack}_top")

    def logits(self, source, target):
        x = self.stack("decoder", target, self.stack("encoder", source))
        names = ("decoder_ff_logit_out_Wt", "Wemb", "decoder_Wemb")
        head = self.arrays[next(name for name in names if name in self.arrays)]
        return x @ head.T + self.arrays["decoder_ff_logit_out_b"]
