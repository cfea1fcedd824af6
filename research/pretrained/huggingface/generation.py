"""Generation settings in Hugging Face's format: generation_config.json or, in older models, config.json.

Hugging Face's max_length and min_length count the start token; ours, and its max_new_tokens, do not.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from research.config import Beam, Generation, Greedy, Power, Sampling, require
from research.pretrained.huggingface.fields import check_types

STOPS: dict[Any, Literal["heuristic", "first", "never"]] = {False: "heuristic", True: "first", "never": "never"}

# Hugging Face's defaults.
DEFAULT_NEW_TOKENS, DEFAULT_TOP_K = 20, 50

TOKENS = {"start_token": "decoder_start_token_id", "eos_token": "eos_token_id", "pad_token": "pad_token_id"}
FORCED_TOKENS = {"forced_first": "forced_bos_token_id", "forced_last": "forced_eos_token_id"}

NUMBER, WHOLE, NONE = (int, float), (int,), (type(None),)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*TOKENS.values(), *FORCED_TOKENS.values()), WHOLE + NONE),
    **dict.fromkeys(("max_length", "min_length", "max_new_tokens", "min_new_tokens"), WHOLE + NONE),
    **dict.fromkeys(("num_beams", "num_return_sequences", "no_repeat_ngram_size", "top_k"), WHOLE + NONE),
    **dict.fromkeys(("temperature", "top_p", "min_p", "length_penalty", "repetition_penalty"), NUMBER + NONE),
    "do_sample": (bool, *NONE),
    "early_stopping": (bool, str, *NONE),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens"), (list, *NONE)),
}

# Unsupported settings that would change the output, with their neutral values.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "sequence_bias": (),
    "force_words_ids": (),
    "begin_suppress_tokens": ([],),
    "guidance_scale": (1.0,),
}


def parse(settings: Mapping[str, Any], path: Path) -> Generation:
    """Build the generation settings that the fields of the JSON object at `path` describe.

    Raises:
        ConfigError: a field has a wrong type, is not supported, or is missing.
    """
    settings = {name: value[0] if _single(name, value) else value for name, value in settings.items()}
    check_types(settings, TYPES, (), path)
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, neutral in UNSUPPORTED.items():
        require(
            settings.get(name) in (None, *neutral), f"{path}: {name} is {settings.get(name)!r}, which is not supported."
        )
    missing = [name for name in TOKENS.values() if name not in settings]
    require(not missing, f"{path}: {', '.join(missing)} must be in the file or be passed.")
    words = settings.get("bad_words_ids", [])
    single = all(isinstance(word, list) and len(word) == 1 for word in words)
    require(single, f"{path}: bad_words_ids is {words}; only words of one token are supported.")
    tokens: dict[str, Any] = {field: settings.get(name) for field, name in (TOKENS | FORCED_TOKENS).items()}
    return Generation(
        **tokens,
        method=_method(settings, path),
        outputs=settings.get("num_return_sequences", 1),
        max_length=settings.get("max_new_tokens", settings.get("max_length", DEFAULT_NEW_TOKENS + 1) - 1),
        min_length=settings.get("min_new_tokens", max(settings.get("min_length", 0) - 1, 0)),
        banned=tuple(dict.fromkeys([*(word[0] for word in words), *settings.get("suppress_tokens", [])])),
        no_repeat_ngram=settings.get("no_repeat_ngram_size", 0),
        repetition_penalty=float(settings.get("repetition_penalty", 1.0)),
    )


def _single(name: str, value: Any) -> bool:
    """Return True if `value` is a token given as a list of one."""
    return name in (*TOKENS.values(), *FORCED_TOKENS.values()) and isinstance(value, list) and len(value) == 1


def _method(settings: Mapping[str, Any], path: Path) -> Greedy | Sampling | Beam:
    beams, sampled = settings.get("num_beams", 1), settings.get("do_sample", False)
    require(not (sampled and beams > 1), f"{path}: do_sample cannot be combined with num_beams {beams}.")
    if sampled:
        return Sampling(
            temperature=float(settings.get("temperature", 1.0)),
            top_k=settings.get("top_k", DEFAULT_TOP_K),
            top_p=float(settings.get("top_p", 1.0)),
            min_p=float(settings.get("min_p", 0.0)),
        )
    if beams == 1:
        return Greedy()
    stop = settings.get("early_stopping", False)
    require(stop in STOPS, f"{path}: early_stopping is {stop!r}, not false, true or 'never'.")
    return Beam(beams=beams, length_penalty=Power(float(settings.get("length_penalty", 1.0))), stop=STOPS[stop])


def dump(generation: Generation, path: Path) -> dict[str, Any]:
    """Return the fields that `parse` reads as `generation`; raise ConfigError if they cannot represent it."""
    settings: dict[str, Any] = {name: getattr(generation, field) for field, name in (TOKENS | FORCED_TOKENS).items()}
    settings |= {"max_length": generation.max_length + 1, "num_return_sequences": generation.outputs}
    settings |= {
        "no_repeat_ngram_size": generation.no_repeat_ngram,
        "repetition_penalty": generation.repetition_penalty,
    }
    settings |= {"min_length": generation.min_length + 1 if generation.min_length else None}
    settings |= {"bad_words_ids": [[token] for token in generation.banned] or None}
    match generation.method:
        case Sampling(temperature, top_k, top_p, min_p):
            settings |= {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
            settings |= {"min_p": min_p or None}
        case Beam(beams, length_penalty, stop):
            early = next(value for value, own in STOPS.items() if own == stop)
            settings |= {"num_beams": beams, "early_stopping": early}
            settings |= {"length_penalty": length_penalty.exponent if isinstance(length_penalty, Power) else None}
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
