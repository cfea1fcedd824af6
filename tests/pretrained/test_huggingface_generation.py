"""generation_config.json read and written, against what transformers makes of the same fields."""

import json
from dataclasses import replace

import numpy as np
import pytest
from parity import GOLDENS

from research import Beam, Generation, Greedy, Power, Sampling
from research.config import ConfigError
from research.pretrained.huggingface import read_generation
from research.pretrained.huggingface.generation import KNOWN, TYPES, dump, parse


def lay_out(directory, config, generation=None):
    (directory / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


TOKENS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ({}, {"max_length": 20}),
        ({"max_length": 128}, {"max_length": 127}),
        ({"max_length": 128, "max_new_tokens": 128}, {"max_length": 128}),
        ({"max_length": 128, "min_length": 12}, {"max_length": 127, "min_length": 11}),
        ({"max_length": 128, "min_length": 1}, {"max_length": 127}),
        ({"max_new_tokens": 9, "min_new_tokens": 3}, {"max_length": 9, "min_length": 3}),
        ({"eos_token_id": [2], "bad_words_ids": [[7], [3]]}, {"eos_token": 2, "banned": (7, 3), "max_length": 20}),
        (
            {"eos_token_id": [2, 9], "bad_words_ids": [[9], [2], [4]]},
            {"eos_token": 2, "more_eos": (9,), "banned": (4,)},
        ),
        ({"suppress_tokens": [1, 5]}, {"banned": (1, 5)}),
        ({"bad_words_ids": [[1, 2], [3], [1], [4, 5, 6]]}, {"banned": (3,), "banned_sequences": ((1, 2), (4, 5, 6))}),
        ({"begin_suppress_tokens": [4, 1], "renormalize_logits": True}, {"banned_first": (4, 1), "renormalize": True}),
        ({"exponential_decay_length_penalty": [5, 1.25]}, {"eos_growth": 1.25, "eos_growth_start": 5}),
        (
            {"encoder_no_repeat_ngram_size": 3, "encoder_repetition_penalty": 1.5},
            {"no_source_ngram": 3, "source_reward": 1.5},
        ),
        ({"suppress_tokens": [5], "bad_words_ids": [[5], [6]]}, {"banned": (5, 6), "max_length": 20}),
        ({"forced_bos_token_id": 4, "forced_eos_token_id": 1}, {"forced_first": 4, "forced_last": 1, "max_length": 20}),
        ({"num_beams": 4}, {"method": Beam(4, Power(1.0), "heuristic"), "max_length": 20}),
        (
            {"num_beams": 6, "length_penalty": 2, "early_stopping": True, "num_return_sequences": 3},
            {"method": Beam(6, Power(2.0), "first"), "outputs": 3, "max_length": 20},
        ),
        (
            {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5, "num_return_sequences": 6},
            {"method": Beam(6, groups=3, diversity_penalty=0.5), "outputs": 6},
        ),
        ({"stop_strings": ["end", "\n"], "diversity_penalty": 0.0}, {"stop_strings": ("end", "\n")}),
        ({"stop_strings": "end"}, {"stop_strings": ("end",)}),
        ({"num_beams": 2, "early_stopping": "never"}, {"method": Beam(2, stop="never"), "max_length": 20}),
        ({"do_sample": True}, {"method": Sampling(top_k=50), "max_length": 20}),
        (
            {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "num_return_sequences": 5},
            {"method": Sampling(0.7, 0, 0.9, 0.1), "outputs": 5, "max_length": 20},
        ),
        (
            {"do_sample": True, "typical_p": 0.9, "epsilon_cutoff": 3e-4, "eta_cutoff": 2e-3, "min_p": 0},
            {"method": Sampling(top_k=50, typical_p=0.9, epsilon=3e-4, eta=2e-3)},
        ),
        ({"typical_p": 0.9, "top_h": 0.4, "epsilon_cutoff": 0.1}, {}),  # greedy decoding does not cut
        ({"do_sample": True, "epsilon_cutoff": 1, "eta_cutoff": 2.0}, {"method": Sampling(top_k=50)}),
        (
            {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "num_beam_groups": 1, "use_cache": True},
            {"no_repeat_ngram": 3, "repetition_penalty": 1.2, "max_length": 20},
        ),
    ],
)
def test_what_is_read(tmp_path, said, changes):
    expected = replace(Generation(), **({"max_length": 20} | changes))
    assert parse(TOKENS | said, tmp_path) == expected
    assert parse(dump(expected, tmp_path), tmp_path) == expected


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"bad_words_ids": ["no", "never"]}, "bad_words_ids has 'no': give token ids"),
        ({"bad_words_ids": [[1, "2"]]}, r"bad_words_ids has \[1, '2'\]: give token ids"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids has \[\]: give token ids"),
        ({"suppress_tokens": [-1]}, r"suppress_tokens has \[-1\]: give token ids"),
        (
            {"suppress_tokens": [3], "forced_eos_token_id": 3},
            r"suppress_tokens has \[3\], which must be generated first",
        ),
        ({"eos_token_id": [1, True]}, r"eos_token_id has \[1, True\]: give token ids"),
        ({"forced_eos_token_id": [1, 2]}, r"forced_eos_token_id is \[1, 2\], which is not int"),
        (
            {"exponential_decay_length_penalty": [5]},
            r"exponential_decay_length_penalty is \[5\], not \[start, factor\]",
        ),
        ({"sampling_seed": 3, "top_q": 0.2}, "sampling_seed, top_q are fields that are not known"),
        ({"num_beams": 4, "do_sample": True}, "do_sample cannot be combined with num_beams 4"),
        ({"num_beam_groups": 2}, "method.groups is 2: it must divide the number of beams, 1"),
        ({"num_beams": 6, "num_beam_groups": 4}, "method.groups is 4: it must divide the number of beams, 6"),
        ({"num_beams": 6, "num_beam_groups": 2}, "method.diversity_penalty is 0.0: groups need one above 0"),
        ({"num_beams": 6, "diversity_penalty": 0.5}, "method.diversity_penalty is 0.5: one group has none"),
        ({"num_beam_groups": 2, "do_sample": True}, "do_sample cannot be combined with groups of beams"),
        ({"stop_strings": ["a", ""]}, r"stop_strings has \[''\]: give texts that are not empty"),
        ({"stop_strings": [3]}, r"stop_strings has \[3\]: give texts that are not empty"),
        (
            {"stop_strings": "a", "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
            r"generation.stop_strings cannot be combined with method.groups",
        ),
        ({"penalty_alpha": 0.6}, "penalty_alpha is 0.6, which is not supported"),
        ({"num_beams": 2, "early_stopping": "later"}, "early_stopping is 'later', not false, true or 'never'"),
        ({"max_length": "9"}, "max_length is '9', which is not int or NoneType"),
        ({"num_beams": True}, "num_beams is True, which is not int"),
        ({"max_length": 10, "min_length": 20}, "generation.min_length is 19: at most max_length, 9"),
        ({"pad_token_id": None}, "pad_token_id must be in the file or be passed"),
    ],
)
def test_what_is_refused(tmp_path, said, message):
    with pytest.raises(ConfigError, match=message):
        parse(TOKENS | said, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_time", 1.5), ("constraints", [{}]), ("dola_layers", "low")),
        *(("token_healing", True), ("remove_invalid_values", True), ("forced_decoder_ids", [[1, 5]])),
        *(("watermarking_config", {"greenlist_ratio": 0.5}), ("force_words_ids", [[4]]), ("guidance_scale", 2.0)),
        *(("sequence_bias", [[[4], 2.0]]), ("prompt_lookup_num_tokens", 3)),
    ],
)
def test_a_setting_that_cannot_be_followed_is_refused_by_its_name(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name} is .*, which is not supported"):
        parse(TOKENS | {name: value}, tmp_path)
    assert parse(TOKENS | {name: None}, tmp_path) == Generation(max_length=20)


def test_a_cut_that_is_not_supported_is_refused_where_it_is_used(tmp_path):
    with pytest.raises(ConfigError, match=r"top_h is 0.4, which is not supported"):
        parse(TOKENS | {"top_h": 0.4, "do_sample": True}, tmp_path)


@pytest.mark.live
def test_every_setting_of_transformers_is_known():
    """A setting of a new version is decided upon before it is read."""
    transformers = pytest.importorskip("transformers")
    names = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    assert names <= KNOWN
    assert len(names & set(TYPES)) == 33


def test_fields_of_config_json_count_where_there_is_no_other_file(tmp_path):
    old = {"model_type": "bart", "num_beams": 4, "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3}
    expected = Generation(2, 2, 1, Beam(4), max_length=141, min_length=55, forced_last=2, no_repeat_ngram=3)
    assert read_generation(lay_out(tmp_path, old)) == expected
    # Of config.json only the tokens count beside one.
    new = {"max_length": 30, "eos_token_id": 5}
    assert read_generation(lay_out(tmp_path, old, new)) == Generation(2, 5, 1, Greedy(), max_length=29)


def test_the_first_versions_name_of_a_forced_token(tmp_path):
    old = {"model_type": "bart", "bos_token_id": 4, "force_bos_token_to_be_generated": True}
    assert read_generation(lay_out(tmp_path, old)).forced_first == 4
    assert read_generation(lay_out(tmp_path, old | {"force_bos_token_to_be_generated": False})).forced_first is None


def test_every_golden_has_a_generation():
    assert read_generation(GOLDENS / "t5") == Generation(0, 1, 0, max_length=20)
    assert read_generation(GOLDENS / "bart") == Generation(2, 2, 1, max_length=20, forced_last=2)
    assert read_generation(GOLDENS / "marian") == Generation(60, 0, 60, max_length=20, forced_last=0)


def test_mbart_starts_from_a_language_that_is_given(tmp_path):
    with pytest.raises(ConfigError, match="decoder_start_token_id must be in the file or be passed"):
        read_generation(GOLDENS / "mbart")
    assert read_generation(GOLDENS / "mbart", start_token=60) == Generation(60, 2, 1, max_length=20, forced_last=2)
    fifty = {"model_type": "mbart", "decoder_start_token_id": 2}
    assert read_generation(lay_out(tmp_path, fifty, {"forced_bos_token_id": 9})).forced_first == 9


@pytest.mark.live
def test_lengths_are_those_of_transformers(tmp_path):
    """A model that never, or always, wants to end writes as many tokens as its generation says."""
    torch = pytest.importorskip("torch")
    goldens = pytest.importorskip("scripts.make_goldens")
    made = goldens.VARIANTS["bart"]
    reference = goldens.build(made, seed=0)
    tokens = torch.from_numpy(goldens.example(seed=0, tokens=made.tokens)["encoder_input_tokens"])[:1]
    for said, wants in (({"max_length": 9}, -100.0), ({"max_length": 20, "min_length": 6}, 100.0)):
        reference.final_logits_bias = torch.nn.Buffer(torch.zeros(1, 61))
        reference.final_logits_bias[0, 2] = wants
        written = reference.generate(tokens, do_sample=False, **said).numpy()[0, 1:]
        generation = parse(TOKENS | {"eos_token_id": 2} | said, tmp_path)
        before_the_end = len(written) - np.isin(written[-1], [2])
        assert before_the_end + 1 == generation.max_length if wants < 0 else before_the_end == generation.min_length
