"""Directories that we write, read by transformers 4 and by CTranslate2's converter as it is."""

import subprocess
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vocabularies
from older_transformers import answer
from vocabularies import LINES

from research import Beam, Generation, Greedy, LayerNorm, Learned, Model, Relative, Sinusoidal, Tied
from research.data.tokenizer import SentencePieceTokenizer, Tokenizer
from research.decode.generate import padded
from research.decode.search import decode
from research.model.transformer import Params, initial_params
from research.pretrained.huggingface import write_directory
from research.pretrained.tokenizer_files import write_tokenizer

pytestmark = [pytest.mark.live, pytest.mark.slow]

FAMILIES = ("t5", "fallback", "mt5", "byt5", "bart", "cc25", "50", "m2m_100", "marian", "separate")
LANGUAGE = {"cc25": "ro_RO", "50": "ro_RO", "m2m_100": "ro"}

TOKENIZE = """
from transformers import AutoTokenizer
answer = {}
for name, (directory, language, texts) in question.items():
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if language:
        tokenizer.src_lang = tokenizer.tgt_lang = language
    answer[name] = [tokenizer(text).input_ids for text in texts]
"""


def test_ids_in_transformers_4(families, older_python, tmp_path):
    texts = [text for text in LINES[:300] if text.strip()]
    question = {}
    for name in FAMILIES:
        write_tokenizer(families[name], tmp_path / name)
        question[name] = (str(tmp_path / name), LANGUAGE.get(name), texts)
    theirs = answer(older_python, TOKENIZE, question, tmp_path)
    for name in FAMILIES:
        tokenizer = families[name]
        for ours, ids in zip(tokenizer.source(texts, LANGUAGE.get(name)), theirs[name], strict=True):
            tied = isinstance(tokenizer, SentencePieceTokenizer) and vocabularies.tied(tokenizer.processor, ours, ids)
            assert ours == ids or tied, name


TRANSLATE = """
import ctranslate2
answer = {}
for name, (directory, prefix, sources) in question.items():
    translator = ctranslate2.Translator(directory, device="cpu", compute_type="float32", intra_threads=1)
    prefixes = prefix * len(sources) if prefix[0] else None
    answer[name] = {
        str(beams): [
            (output.hypotheses[0], output.scores[0])
            for output in translator.translate_batch(
                sources, target_prefix=prefixes, beam_size=beams, return_end_token=True, return_scores=True,
                min_decoding_length=0, max_decoding_length=14,
            )
        ]
        for beams in (1, 4)
    }
"""

BART = dict(gated=False, biases=True, norm=LayerNorm(), head=Tied(False), scaled_scores=True, logits_bias=True)
CHANGES: dict[str, dict] = {
    "t5": {},
    "fallback": {},
    "bart": BART | dict(positions=Learned(64, 2), norm_first=False, embedding_norm=True, activation="gelu"),
    "cc25": BART | dict(positions=Learned(64, 2), embedding_norm=True, scaled_embedding=True, activation="gelu"),
    "50": BART | dict(positions=Learned(64, 2), embedding_norm=True, scaled_embedding=True, activation="gelu"),
    "marian": BART | dict(positions=Sinusoidal(64), norm_first=False, scaled_embedding=True, activation="silu"),
}


def model_of(name: str, tokenizer: Tokenizer) -> tuple[Model, Params]:
    """A small model that often writes EOS."""
    positions = {"positions": Relative(8, 12)} if not CHANGES[name] else {}
    zero = {"zero_token": tokenizer.pad_id} if name == "marian" else {}
    model = Model(tokenizer.size, 16, 2, 8, 24, 2, 2, compute="float32", **CHANGES[name], **positions, **zero)
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(model, jax.random.key(1)))
    if model.logits_bias:
        params["logits_bias"] = params["logits_bias"].at[tokenizer.eos_id].set(EOS_BIAS[name])
    return model, params


EOS_BIAS = {"bart": 60.0, "cc25": 60.0, "50": 60.0, "marian": 110.0}


def ended(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def test_tokens_of_ctranslate2(families, older_python, tmp_path):
    """With the options that make its search ours: a row ends with the first finished hypotheses, lengths count EOS, and
    an output may be EOS alone (by default min_decoding_length is 1 there).
    """
    lines = [line for line in LINES[:200] if 6 < len(line) < 60][:12]
    question, expected = {}, {}
    for name in CHANGES:
        tokenizer, language = families[name], LANGUAGE.get(name)
        model, params = model_of(name, tokenizer)
        start = tokenizer.start_id(language)
        forced = tokenizer.forced_first(language)
        banned = (tokenizer.pad_id,) if name == "marian" else ()
        generation = Generation(
            start, tokenizer.eos_id, tokenizer.pad_id, max_length=14, forced_first=forced, banned=banned
        )
        write_directory(tmp_path / name, model, params, tokenizer, generation)
        command = [older_python.parent / "ct2-transformers-converter", "--model", tmp_path / name]
        subprocess.run([*command, "--output_dir", tmp_path / "converted" / name], check=True, capture_output=True)
        sources = tokenizer.source(lines, language)
        arrays = [jnp.asarray(array) for array in padded(sources, len(sources), tokenizer.pad_id, None)]
        expected[name] = {}
        for beams, method in (("1", Greedy()), ("4", Beam(4, stop="first"))):
            found = decode(model, params, *arrays, generation=replace(generation, method=method))
            rows = [ended(row, tokenizer.eos_id) for row in np.asarray(found.tokens[:, 0]).tolist()]
            expected[name][beams] = list(zip(rows, np.asarray(found.scores[:, 0]).tolist(), strict=True))
        prefix = [start] if name == "cc25" else [forced] if forced is not None else []
        question[name] = (str(tmp_path / name), str(tmp_path / "converted" / name), prefix, sources)
    theirs = answer(older_python, NAMES + TRANSLATE + BACK, question, tmp_path)
    for name, outputs in expected.items():
        for beams, rows in outputs.items():
            for (ours, score), (tokens, other) in zip(rows, theirs[name][beams], strict=True):
                # Two hypotheses of one score may take each other's place.
                assert ours == tokens or (beams == "4" and abs(score - other) < 1e-5), f"{name}, {beams} beams"
        lengths = {len(row) for row, _ in outputs["4"]}
        assert len(lengths) > 1 or name in ("t5", "fallback"), name


# CTranslate2 takes and gives tokens by their names.
NAMES = """
from transformers import AutoTokenizer
tokenizers = {name: AutoTokenizer.from_pretrained(directory) for name, (directory, *_) in question.items()}
question = {
    name: (converted, *(list(map(tokenizers[name].convert_ids_to_tokens, each)) for each in ([prefix], sources)))
    for name, (_, converted, prefix, sources) in question.items()
}
"""
BACK = """
answer = {
    name: {
        beams: [(tokenizers[name].convert_tokens_to_ids(row), score) for row, score in rows]
        for beams, rows in outputs.items()
    }
    for name, outputs in answer.items()
}
"""
