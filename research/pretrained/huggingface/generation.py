"""How tokens are chosen, as Hugging Face says it in generation_config.json or, before that, in config.json.

Its lengths count the start token, and ours do not; except those of new tokens.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from research.config import Beam, Generation, Greedy, Power, Sampling, require
from research.pretrained.huggingface.fields import check_types

STOPS: dict[Any, Literal["heuristic", "first", "never"]] = {False: "heuristic", True: "first", "never": "never"}

# What is done where nothing is said.
SILENT_NEW_TOKENS, SILENT_TOP_K = 20, 50

TOKENS = {"start_token": "decoder_start_token_id", "eos_token": "eos_token_id", "pad_token": "pad_token_id"}
FORCED = {"forced_first": "forced_bos_token_id", "forced_last": "forced_eos_token_id"}

NUMBER, WHOLE, NONE = (int, float), (int,), (type(None),)
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*TOKENS.values(), *FORCED.values()), WHOLE + NONE),
    **dict.fromkeys(("max_length", "min_length", "max_new_tokens", "min_new_tokens"), WHOLE + NONE),
    **dict.fromkeys(("num_beams", "num_return_sequences", "no_repeat_ngram_size", "top_k"), WHOLE + NONE),
    **dict.fromkeys(("temperature", "top_p", "min_p", "length_penalty", "repetition_penalty"), NUMBER + NONE),
    "do_sample": (bool, *NONE),
    "early_stopping": (bool, str, *NONE),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens"), (list, *NONE)),
}

# What would change the tokens chosen and has no counterpart here, with the values that change nothing.
UNKNOWN: dict[str, tuple[Any, ...]] = {
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


def parse(said: Mapping[str, Any], path: Path) -> Generation:
    """The generation that the fields of a JSON object, from `path`, describe.

    Raises:
        ConfigError: a field has another type, asks for what there is not here, or is missing.
    """
    said = {name: value[0] if _single(name, value) else value for name, value in said.items()}
    check_types(said, TYPES, (), path)
    said = {name: value for name, value in said.items() if value is not None}
    for name, neutral in UNKNOWN.items():
        require(said.get(name) in (None, *neutral), f"{path}: {name} is {said.get(name)!r}, which is not known here.")
    missing = [name for name in TOKENS.values() if name not in said]
    require(not missing, f"{path}: {', '.join(missing)} must be there, or be given.")
    words = said.get("bad_words_ids", [])
    single = all(isinstance(word, list) and len(word) == 1 for word in words)
    require(single, f"{path}: bad_words_ids is {words}; only words of one token are known.")
    tokens: dict[str, Any] = {field: said.get(name) for field, name in (TOKENS | FORCED).items()}
    return Generation(
        **tokens,
        method=_method(said, path),
        outputs=said.get("num_return_sequences", 1),
        max_length=said.get("max_new_tokens", said.get("max_length", SILENT_NEW_TOKENS + 1) - 1),
        min_length=said.get("min_new_tokens", max(said.get("min_length", 0) - 1, 0)),
        banned=tuple(dict.fromkeys([*(word[0] for word in words), *said.get("suppress_tokens", [])])),
        no_repeat_ngram=said.get("no_repeat_ngram_size", 0),
        repetition_penalty=float(said.get("repetition_penalty", 1.0)),
    )


def _single(name: str, value: Any) -> bool:
    """Whether a token is said as a list of one."""
    return name in (*TOKENS.values(), *FORCED.values()) and isinstance(value, list) and len(value) == 1


def _method(said: Mapping[str, Any], path: Path) -> Greedy | Sampling | Beam:
    beams, sampled = said.get("num_beams", 1), said.get("do_sample", False)
    require(not (sampled and beams > 1), f"{path}: do_sample beside num_beams {beams}; only one of them is known.")
    if sampled:
        return Sampling(
            temperature=float(said.get("temperature", 1.0)),
            top_k=said.get("top_k", SILENT_TOP_K),
            top_p=float(said.get("top_p", 1.0)),
            min_p=float(said.get("min_p", 0.0)),
        )
    if beams == 1:
        return Greedy()
    stop = said.get("early_stopping", False)
    require(stop in STOPS, f"{path}: early_stopping is {stop!r}, not false, true or 'never'.")
    return Beam(beams=beams, length_penalty=Power(float(said.get("length_penalty", 1.0))), stop=STOPS[stop])


def dump(generation: Generation, path: Path) -> dict[str, Any]:
    """The fields that `parse` reads as this generation; ConfigError where there are none."""
    said: dict[str, Any] = {name: getattr(generation, field) for field, name in (TOKENS | FORCED).items()}
    said |= {"max_length": generation.max_length + 1, "num_return_sequences": generation.outputs}
    said |= {"no_repeat_ngram_size": generation.no_repeat_ngram, "repetition_penalty": generation.repetition_penalty}
    said |= {"min_length": generation.min_length + 1 if generation.min_length else None}
    said |= {"bad_words_ids": [[token] for token in generation.banned] or None}
    match generation.method:
        case Sampling(temperature, top_k, top_p, min_p):
            said |= {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
            said |= {"min_p": min_p or None}
        case Beam(beams, length_penalty, stop):
            early = next(value for value, own in STOPS.items() if own == stop)
            said |= {"num_beams": beams, "early_stopping": early}
            said |= {"length_penalty": length_penalty.exponent if isinstance(length_penalty, Power) else None}
    said = {name: value for name, value in said.items() if value is not None}
    refuse_differences(generation, parse(said, path), "generation", ())
    return said


def refuse_differences(asked: Any, found: Any, section: str, unsaid: tuple[str, ...]) -> None:
    """Raises ConfigError where what was written of a config would not read back as it."""
    wrong = []
    for name in (field.name for field in fields(asked) if field.name not in unsaid):
        own, other = getattr(asked, name), getattr(found, name)
        if own != other:
            wrong.append(f"{section}.{name} is {own!r}, where it would be {other!r}")
    require(not wrong, f"Hugging Face's files cannot say this: {'; '.join(wrong)}.")
