"""Generation settings in Hugging Face's format: generation_config.json or, in older models, config.json.

Hugging Face's max_length and min_length count the start token; ours, and its max_new_tokens, do not.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from research.config import Beam, Generation, Greedy, Power, Sampling, require
from research.pretrained.huggingface.fields import check_known, check_types

STOPS: dict[Any, Literal["heuristic", "first", "never"]] = {False: "heuristic", True: "first", "never": "never"}

# Hugging Face's defaults.
DEFAULT_NEW_TOKENS, DEFAULT_TOP_K = 20, 50

TOKENS = {"start_token": "decoder_start_token_id", "eos_token": "eos_token_id", "pad_token": "pad_token_id"}
FIRST, DECAY = "begin_suppress_tokens", "exponential_decay_length_penalty"
FORCED_TOKENS = {"forced_first": "forced_bos_token_id", "forced_last": "forced_eos_token_id"}

NUMBER, WHOLE, NONE = (int, float), (int,), (type(None),)
LISTS = ("bad_words_ids", "suppress_tokens", FIRST, DECAY)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*TOKENS.values(), *FORCED_TOKENS.values()), WHOLE + NONE),
    **dict.fromkeys(("max_length", "min_length", "max_new_tokens", "min_new_tokens"), WHOLE + NONE),
    **dict.fromkeys(("num_beams", "num_return_sequences", "no_repeat_ngram_size", "top_k"), WHOLE + NONE),
    **dict.fromkeys(("temperature", "top_p", "min_p", "length_penalty", "repetition_penalty"), NUMBER + NONE),
    **dict.fromkeys(("typical_p", "epsilon_cutoff", "eta_cutoff", "encoder_repetition_penalty"), NUMBER + NONE),
    "eos_token_id": (int, list, *NONE),
    **dict.fromkeys(("encoder_no_repeat_ngram_size", "num_beam_groups"), WHOLE + NONE),
    "diversity_penalty": NUMBER + NONE,
    **dict.fromkeys(("do_sample", "renormalize_logits"), (bool, *NONE)),
    "early_stopping": (bool, str, *NONE),
    "stop_strings": (str, list, *NONE),
    **dict.fromkeys(LISTS, (list, *NONE)),
}

# Unsupported settings that would change the output, with their neutral values beside null.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("constraints", "dola_layers", "force_words_ids", "forced_decoder_ids", "max_time"), ()),
    **dict.fromkeys(("prompt_lookup_num_tokens", "sequence_bias", "top_h", "watermarking_config"), ()),
    **dict.fromkeys(("assistant_early_exit", "assistant_ensemble_weight", "speculation_type"), ()),
    **dict.fromkeys(("is_assistant", "remove_invalid_values", "token_healing", "use_mtp"), (False,)),
    "penalty_alpha": (0.0,),
    "guidance_scale": (1,),
}

# Settings that change no token: notes, what `generate` returns, caches, compilation, and details of other methods.
UNUSED = frozenset("""
    _commit_hash _from_model_config assistant_confidence_threshold assistant_lookbehind bos_token_id cache_config
    cache_implementation compile_config continuous_batching_config disable_compile force_bos_token_to_be_generated
    low_memory max_cache_len max_matching_ngram_size num_assistant_tokens num_assistant_tokens_schedule
    output_attentions output_hidden_states output_logits output_scores prefill_chunk_size return_dict_in_generate
    return_legacy_cache target_lookbehind transformers_version use_cache
""".split())  # noqa: SIM905  # fmt: skip

KNOWN = frozenset(TYPES) | frozenset(UNSUPPORTED) | UNUSED


def parse(settings: Mapping[str, Any], path: Path) -> Generation:
    """Build the generation settings that the fields of the JSON object at `path` describe.

    Raises:
        ConfigError: a field has a wrong type, is not known or not supported, or is missing.
    """
    settings = {name: value[0] if _single(name, value) else value for name, value in settings.items()}
    check_types(settings, TYPES, (), path)
    check_known(settings, KNOWN, {}, path)
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, neutral in UNSUPPORTED.items():
        value = settings.get(name)
        unused = value is None or value in neutral or (name == "top_h" and not settings.get("do_sample"))
        require(unused, f"{path}: {name} is {value!r}, which is not supported.")
    missing = [name for name in TOKENS.values() if name not in settings]
    require(not missing, f"{path}: {', '.join(missing)} must be in the file or be passed.")
    return Generation(
        **_tokens(settings, path),
        **_bans(settings, path),
        **_growth(settings, path),
        method=_method(settings, path),
        outputs=settings.get("num_return_sequences", 1),
        max_length=settings.get("max_new_tokens", settings.get("max_length", DEFAULT_NEW_TOKENS + 1) - 1),
        min_length=settings.get("min_new_tokens", max(settings.get("min_length", 0) - 1, 0)),
        no_repeat_ngram=settings.get("no_repeat_ngram_size", 0),
        repetition_penalty=float(settings.get("repetition_penalty", 1.0)),
        no_source_ngram=settings.get("encoder_no_repeat_ngram_size", 0),
        source_reward=float(settings.get("encoder_repetition_penalty", 1.0)),
        stop_strings=_strings(settings, path),
        renormalize=settings.get("renormalize_logits", False),
    )


def _tokens(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    tokens = {field: settings.get(name) for field, name in (TOKENS | FORCED_TOKENS).items()}
    if isinstance(tokens["eos_token"], list):
        tokens["eos_token"], *more = _ids("eos_token_id", tokens["eos_token"], path)
        tokens["more_eos"] = tuple(more)
    return tokens


def _ids(name: str, value: Any, path: Path) -> tuple[int, ...]:
    """Check a list of token ids."""
    whole = isinstance(value, list) and all(type(id) is int and 0 <= id < 2**31 for id in value)
    require(whole and len(value) > 0, f"{path}: {name} has {value!r}: give token ids, whole numbers from 0.")
    return tuple(value)


def _bans(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Read the tokens and words that may not be generated; as in transformers, no word forbids EOS alone."""
    words = dict.fromkeys(_ids("bad_words_ids", word, path) for word in settings.get("bad_words_ids", []))
    suppressed, first = (
        _ids(name, settings[name], path) if settings.get(name) else () for name in ("suppress_tokens", FIRST)
    )
    forced = [id for id in suppressed if id in {settings.get(name) for name in FORCED_TOKENS.values()}]
    require(not forced, f"{path}: suppress_tokens has {forced}, which must be generated first or last.")
    ends = settings["eos_token_id"] if isinstance(settings["eos_token_id"], list) else [settings["eos_token_id"]]
    single = [word[0] for word in words if len(word) == 1 and word[0] not in ends]
    return {
        "banned": tuple(dict.fromkeys([*single, *suppressed])),
        "banned_sequences": tuple(word for word in words if len(word) > 1),
        "banned_first": first,
    }


def _strings(settings: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    value = settings.get("stop_strings", [])
    strings = [value] if isinstance(value, str) else value
    wrong = [string for string in strings if not isinstance(string, str) or not string]
    require(not wrong, f"{path}: stop_strings has {wrong!r}: give texts that are not empty.")
    return tuple(strings)


def _growth(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    match settings.get(DECAY):
        case None:
            return {}
        case [int(start), int() | float() as growth]:
            return {"eos_growth_start": start, "eos_growth": float(growth)}
        case other:
            require(False, f"{path}: {DECAY} is {other!r}, not [start, factor].")
            raise AssertionError


def _single(name: str, value: Any) -> bool:
    """Return True if `value` is a token given as a list of one."""
    return name in (*TOKENS.values(), *FORCED_TOKENS.values()) and isinstance(value, list) and len(value) == 1


def _method(settings: Mapping[str, Any], path: Path) -> Greedy | Sampling | Beam:
    beams, sampled = settings.get("num_beams", 1), settings.get("do_sample", False)
    require(not (sampled and beams > 1), f"{path}: do_sample cannot be combined with num_beams {beams}.")
    groups, diversity = settings.get("num_beam_groups", 1), float(settings.get("diversity_penalty", 0.0))
    grouped = groups != 1 or diversity != 0.0
    require(not (sampled and grouped), f"{path}: do_sample cannot be combined with groups of beams.")
    if sampled:
        return Sampling(
            temperature=float(settings.get("temperature", 1.0)),
            top_k=settings.get("top_k", DEFAULT_TOP_K),
            top_p=float(settings.get("top_p", 1.0)),
            min_p=float(settings.get("min_p", 0.0)),
            typical_p=float(settings.get("typical_p", 1.0)),
            epsilon=_cutoff(settings.get("epsilon_cutoff", 0.0)),
            eta=_cutoff(settings.get("eta_cutoff", 0.0)),
        )
    if beams == 1 and not grouped:
        return Greedy()
    stop = settings.get("early_stopping", False)
    require(stop in STOPS, f"{path}: early_stopping is {stop!r}, not false, true or 'never'.")
    length_penalty = Power(float(settings.get("length_penalty", 1.0)))
    return Beam(beams, length_penalty, STOPS[stop], groups, diversity)


def _cutoff(value: float | int) -> float:
    """Return a cutoff, or 0 for one outside (0, 1), which has no effect in transformers."""
    return float(value) if 0 < value < 1 else 0.0


def dump(generation: Generation, path: Path) -> dict[str, Any]:
    """Return the fields that `parse` reads as `generation`; raise ConfigError if they cannot represent it."""
    settings: dict[str, Any] = {name: getattr(generation, field) for field, name in (TOKENS | FORCED_TOKENS).items()}
    settings |= {"max_length": generation.max_length + 1, "num_return_sequences": generation.outputs}
    settings |= {
        "no_repeat_ngram_size": generation.no_repeat_ngram,
        "repetition_penalty": generation.repetition_penalty,
    }
    settings |= {"min_length": generation.min_length + 1 if generation.min_length else None}
    # As a bad word, EOS would be left out.
    singly = not set(generation.banned) & set(generation.ends)
    words = [[token] for token in generation.banned * singly] + [list(words) for words in generation.banned_sequences]
    settings |= {"bad_words_ids": words or None, FIRST: list(generation.banned_first) or None}
    settings |= {"suppress_tokens": None if singly else list(generation.banned)}
    if generation.more_eos:
        settings["eos_token_id"] = list(generation.ends)
    settings |= {"encoder_no_repeat_ngram_size": generation.no_source_ngram or None}
    if generation.source_reward != 1.0:
        settings["encoder_repetition_penalty"] = generation.source_reward
    if generation.eos_growth != 1.0:
        settings[DECAY] = [generation.eos_growth_start, generation.eos_growth]
    settings |= {"renormalize_logits": generation.renormalize or None}
    settings |= {"stop_strings": list(generation.stop_strings) or None}
    match generation.method:
        case Sampling() as method:
            settings |= {"do_sample": True, "temperature": method.temperature, "top_k": method.top_k}
            settings |= {"top_p": method.top_p, "min_p": method.min_p or None, "typical_p": method.typical_p}
            settings |= {"epsilon_cutoff": method.epsilon or None, "eta_cutoff": method.eta or None}
        case Beam(beams, length_penalty, stop, groups, diversity_penalty):
            early = next(value for value, own in STOPS.items() if own == stop)
            settings |= {"num_beams": beams, "early_stopping": early}
            settings |= {"length_penalty": length_penalty.exponent if isinstance(length_penalty, Power) else None}
            if groups > 1:
                settings |= {"num_beam_groups": groups, "diversity_penalty": diversity_penalty}
    settings = {name: value for name, value in settings.items() if value is not None}
    refuse_differences(generation, parse(settings, path), "generation", ())
    return settings


def refuse_differences(original: Any, read_back: Any, section: str, ignored: tuple[str, ...]) -> None:
    """Raise ConfigError, listing every field outside `ignored` in which the config read back differs."""
    wrong = []
    for name in (field.name for field in fields(original) if field.name not in ignored):
        own, other = getattr(original, name), getattr(read_back, name)
        if own != other:
            wrong.append(f"{section}.{name} is {own!r}, but would be read as {other!r}")
    require(not wrong, f"Hugging Face's files cannot represent this: {'; '.join(wrong)}.")
