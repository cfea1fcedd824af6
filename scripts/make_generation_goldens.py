"""Record what Hugging Face's `generate` writes for tests/goldens: python -m scripts.make_generation_goldens

It writes tests/goldens/generations.json: for each model and each `Generation` the sources, and the tokens up to and
including EOS and the scores of every output. It needs torch and transformers. Run it after scripts.make_goldens, or to
add a case. Groups of beams left transformers with its version 5: with transformers 4.55.4 it writes them to
tests/goldens/group_generations.json.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from research.config import Beam, Generation, Greedy, Power, override
from research.pretrained.huggingface import generation as generation_config

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
LENGTHS = (13, 8, 5, 2)  # tokens of the sources, padded to the first
LONGEST = 14  # tokens written

# Of tokens that bart writes without a rule.
SEQUENCES: tuple[tuple[int, ...], ...] = ((21, 21), (5, 4, 37), (12, 12, 12, 12))

# Each rule alone, and all together.
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "repetition_penalty": {"repetition_penalty": 1.8},
    "no_repeat_ngram": {"no_repeat_ngram": 2},
    "min_length": {"min_length": 13},
    "forced": {"forced_first": 7, "forced_last": 11},
    "banned": {"banned": (5, 9, 30, 41)},
    "banned_sequences": {"banned_sequences": SEQUENCES, "banned": (9,)},
    "banned_first": {"banned_first": (2, 4, 21)},
    "banned_second": {"banned_first": (2, 4, 21), "forced_first": 7},
    "more_eos": {"more_eos": (12, 35), "min_length": 3},
    "eos_growth": {"eos_growth": 1.4, "eos_growth_start": 3},
    "renormalize": {"renormalize": True, "banned": (5, 9, 30, 41), "min_length": 7},
    "source": {"no_source_ngram": 1, "repetition_penalty": 1.2},
    "source_reward": {"source_reward": 2.5, "no_source_ngram": 2},
    "all": {"repetition_penalty": 1.3, "no_repeat_ngram": 3, "min_length": 6, "forced_first": 8, "banned": (9, 12)},
}
METHODS: dict[str, dict[str, Any]] = {
    "greedy": {"method": Greedy()},
    "beam": {"method": Beam(4, Power(1.0), "heuristic"), "outputs": 3},
    "beam_first": {"method": Beam(3, Power(0.6), "first"), "outputs": 3},
    "beam_never": {"method": Beam(4, Power(1.5), "never"), "outputs": 4},
    "beam_sum": {"method": Beam(2, Power(0.0), "never")},
}
# Several end tokens end outputs, and groups, early.
GROUPED: dict[str, dict[str, Any]] = {
    "heuristic": {"method": Beam(4, Power(1.0), "heuristic", 2, 0.5), "outputs": 4},
    "first": {"method": Beam(6, Power(0.6), "first", 3, 1.0), "outputs": 5, "more_eos": (4, 12, 24, 37)},
    "never": {"method": Beam(3, Power(1.5), "never", 3, 0.3), "outputs": 3, "more_eos": (4, 12, 24)},
    "shorter": {"method": Beam(4, Power(-0.5), "heuristic", 2, 2.0), "outputs": 4, "more_eos": (12, 25, 35)},
}
GROUP_CASES = {
    "bart": [*((method, "plain") for method in GROUPED),
             *(("heuristic", rule) for rule in ("all", "forced", "renormalize", "eos_growth")), ("first", "all")],
    "t5": [(method, "plain") for method in GROUPED],
    "mbart": [("first", "all")],
    "marian": [("first", "plain"), ("shorter", "all")],
}  # fmt: skip
EVERY = [*(("greedy", rule) for rule in RULES), *((method, "plain") for method in METHODS if method != "greedy"),
         *(("beam", rule) for rule in RULES if rule != "plain")]  # fmt: skip
SOME = [("greedy", "all"), ("beam", "all"), ("beam_never", "plain")]

# start, EOS, padding
TOKENS = {
    "bart": (2, 2, 1),
    "mbart": (6, 2, 1),
    "m2m_100": (2, 2, 1),
    "marian": (60, 0, 60),
    "marian_separate": (52, 0, 52),
}


def cases(name: str, groups: bool) -> list[tuple[str, Generation]]:
    start, eos, pad = TOKENS.get(name, (0, 1, 0))
    made, methods = [], GROUPED if groups else METHODS
    chosen = GROUP_CASES.get(name, []) if groups else EVERY if name == "bart" else SOME
    for method, rule in chosen:
        settings = {**methods[method], **RULES[rule]}
        if name.startswith("marian"):
            settings["banned"] = (*settings.get("banned", ()), pad)
        made.append((f"{method} {rule}", Generation(start, eos, pad, max_length=LONGEST, **settings)))
    return made


def sources(pad: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    mask = (np.arange(LENGTHS[0]) < np.array(LENGTHS)[:, None]).astype(np.int64)
    tokens = np.random.default_rng(seed).integers(3, size - 1, mask.shape)
    return np.where(mask, tokens, pad), mask


def reference(model: Any, generation: Generation, tokens: np.ndarray, mask: np.ndarray, **inputs: Any) -> Any:
    """Generate; return each output's tokens after the start, up to and including EOS, and the scores of beam search.

    The rules about sources take padding for tokens of the source there, so with them each row is alone.
    """
    if (generation.no_source_ngram or generation.source_reward != 1.0) and len(tokens) > 1:
        rows = [reference(model, generation, *row) for row in _alone(tokens, mask)]
        return [each for row, _ in rows for each in row], _joined([scores for _, scores in rows])
    config = GenerationConfig(**generation_config.dump(generation, Path("generation_config.json")))
    with torch.no_grad():
        written = model.generate(
            torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask), generation_config=config,
            return_dict_in_generate=True, output_scores=True, **inputs,
        )  # fmt: skip
    beam = isinstance(generation.method, Beam)
    scores = written.sequences_scores.tolist() if beam else None
    return [ended(row[1:], generation.ends) for row in written.sequences.tolist()], scores


def _alone(tokens: np.ndarray, mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for row, length in zip(tokens, mask.sum(axis=1), strict=True):
        yield row[None, :length], np.ones((1, length), np.int64)


def _joined(scores: list[list[float] | None]) -> list[float] | None:
    return None if scores[0] is None else [each for row in scores for each in row or ()]


def ended(tokens: list[int], ends: tuple[int, ...]) -> list[int]:
    length = next((index + 1 for index, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:length]


def open_reference(directory: Path) -> Any:
    model = AutoModelForSeq2SeqLM.from_pretrained(directory, attn_implementation="eager").eval()
    # transformers 5 forgets this field, and then scales the input of umT5's separate head, unlike transformers 4.
    model.config.tie_word_embeddings = json.loads((directory / "config.json").read_text()).get(
        "tie_word_embeddings", True
    )
    model.generation_config = GenerationConfig()  # only the settings of a case
    return model


def main() -> None:
    content: dict[str, Any] = {"versions": {package: version(package) for package in ("torch", "transformers")}}
    groups = version("transformers").startswith("4.")
    for path in sorted(GOLDENS.glob("*/config.json")):
        name = path.parent.name
        if not (chosen := cases(name, groups)):
            continue
        model = open_reference(path.parent)
        tokens, mask = sources(TOKENS.get(name, (0, 1, 0))[2], model.config.vocab_size)
        content[name] = {"tokens": tokens.tolist(), "lengths": LENGTHS, "cases": {}}
        for label, generation in chosen:
            written, scores = reference(model, generation, tokens, mask)
            settings = json.loads(override.to_json(generation))
            content[name]["cases"][label] = {"generation": settings, "tokens": written, "scores": scores}
            print(name, label, sorted({len(row) for row in written}), written[0])
    (GOLDENS / f"{'group_' * groups}generations.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
