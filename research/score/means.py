"""Means over languages of the scores of an evaluation, as tables of multilingual models have them."""

from pathlib import Path
from statistics import mean

from research.config import ConfigError, parse_json


def language_means(file: str | Path) -> dict[str, float]:
    """Return the means of each benchmark's scores from a scores.json that `kintsugi evaluate` wrote.

    The scores of xnli/ar, xnli/bg ... give "xnli/sequence_accuracy": each language counts as one. Raises ConfigError if
    no task is named by a benchmark and a language.
    """
    found: dict[str, list[float]] = {}
    for name, result in parse_json(Path(file).read_text(), str(file))["results"].items():
        benchmark, *language = name.split("/")[:2]
        for score, value in result.get("scores", {}).items() if language else ():
            found.setdefault(f"{benchmark}/{score}", []).append(value)
    if not found:
        raise ConfigError(f"{file} has no task that is named by a benchmark and a language, such as xnli/de.")
    return {name: mean(values) for name, values in found.items()}
