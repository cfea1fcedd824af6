"""Hugging Face directories of tiny random models, each with the tokenizer of a family."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from parity import golden

from research import Generation
from research.data.tokenizer import Tokenizer
from research.model.transformer import abstract_params, bind
from research.pretrained.huggingface import read_config, read_params, write_directory

VARIANTS = {
    **{"t5": "t5", "fallback": "t5_v1_1", "bpe": "t5_v1_1", "mt5": "mt5", "byt5": "t5"},
    **{"bart": "bart", "cc25": "mbart", "50": "mbart", "m2m_100": "m2m_100", "marian": "marian"},
}
PADDING = 12  # rows above the last id of T5's and M2M-100's tokenizers


def write_model(directory: Path, family: str, tokenizer: Tokenizer) -> None:
    """Write random weights, every row of them different, and the tokenizer."""
    model, _, _ = golden(VARIANTS[family])
    rows = tokenizer.size + PADDING * (VARIANTS[family] not in ("bart", "mbart", "marian"))
    pad = None if model.pad_token is None else tokenizer.pad_id
    model = replace(model, vocab_size=rows, pad_token=pad, zero_token=pad if model.zero_token is not None else None)
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: draw(size=leaf.shape, scale=0.3).astype(np.float32), abstract_params(model))
    if model.zero_token is not None:
        params["embedding"][model.zero_token] = 0
    languages = tokenizer.language_ids
    forced = languages.get("ro_RO")
    generation = Generation(tokenizer.pad_id, tokenizer.eos_id, tokenizer.pad_id, forced_first=forced, max_length=20)
    generation = replace(generation, banned=(rows - 1,), banned_sequences=((tokenizer.eos_id, 5),))
    write_directory(directory, model, params, tokenizer, generation)


def logits(directory: Path, source: list[int], target: list[int]) -> np.ndarray:
    """Compute this project's logits of the model at `directory` for one source and the decoder's input."""
    model = replace(read_config(directory), compute="float32")
    module = bind(model, jax.tree.map(jnp.asarray, read_params(directory, model)))
    encoded = module.encode(jnp.asarray([source]), None)
    return np.asarray(module.logits(module.decode(jnp.asarray([target]), encoded, None, encoder_segment_ids=None))[0])
