"""Scores by models of other packages, which compare texts by their embeddings."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from research.config import ConfigError, Metric, require
from research.config.metric import References, reference_count
from research.score.labels import text_of


@dataclass(frozen=True)
class BERTScore(Metric):
    """F1 of tokens that are matched by their embeddings (arXiv:1904.09675), in percent, by the package bert-score.

    `model` is a name on the Hugging Face Hub or a directory; `layer` is the one whose embeddings are compared, for some
    models by default that which the package's authors chose. The best of several references counts, and an empty
    output has 0. It is computed on the CPU. Needs the extra `bertscore`.
    """

    model: str = "roberta-large"
    layer: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ("bertscore",)

    @property
    def is_mean(self) -> bool:
        return True

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        return {"bertscore": sum(self._each(predictions, references)) / len(predictions)}

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        return {"bertscore": self._each([prediction], [references])[0]}

    def _each(self, predictions: Sequence[str], references: References) -> list[float]:
        scores, scorer = [0.0] * len(predictions), _scorer(self)
        filled = [index for index, text in enumerate(predictions) if text.strip()]  # it fails for empty ones
        if filled:
            _, _, f1 = scorer.score(
                [predictions[index] for index in filled], [list(references[index]) for index in filled]
            )
            for index, value in zip(filled, f1.tolist(), strict=True):
                scores[index] = 100.0 * value
        return scores

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|best reference|{_scorer(self).hash}"


@cache
def _scorer(metric: BERTScore) -> Any:
    """Load a metric's model once. Raises ConfigError if it or the package cannot be had."""
    try:
        from bert_score import BERTScorer
    except ImportError:
        raise ConfigError("BERTScore needs the package bert-score: pip install 'kintsugi[bertscore]'.") from None
    try:
        return BERTScorer(model_type=metric.model, num_layers=metric.layer, device="cpu")
    except KeyError:
        raise ConfigError(f"BERTScore knows no layer of {metric.model}: give one, such as layer=9.") from None
    except (OSError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"BERTScore cannot load {metric.model} ({reason}): give a directory, or a model of the Hub that is in the"
            " cache or can be downloaded."
        ) from None


@dataclass(frozen=True)
class COMET(Metric):
    """The quality of translations as a model estimates it from source, output and reference (arXiv:2009.09025), times
    100, by the program comet-score on the CPU.

    The program's package, unbabel-comet, needs older libraries than Kintsugi: install it into an environment of its own
    and name its program. `model` is a name on the Hugging Face Hub or a checkpoint's file, model.ckpt. The first of
    several references counts. The program loads its model anew each time.
    """

    model: str = "Unbabel/wmt22-comet-da"
    program: str = "comet-score"

    @property
    def names(self) -> tuple[str, ...]:
        return ("comet",)

    def score_examples(
        self, predictions: Sequence[str], references: References, more: Sequence[Mapping[str, str]]
    ) -> Mapping[str, float]:
        sources = [text_of(each, "source", self) for each in more]
        texts = {"-s": sources, "-t": predictions, "-r": [given[0] for given in references]}
        with tempfile.TemporaryDirectory() as folder:
            written, options = Path(folder) / "scores.json", []
            for option, each in texts.items():
                path = Path(folder) / f"text{option}"
                path.write_text("".join(" ".join(text.split()) + "\n" for text in each))
                options += [option, str(path)]
            self._run([*options, "--model", self.model, "--to_json", str(written), "--gpus", "0", "--quiet"])
            require(written.is_file(), f"{self.program} ended without its scores: is it COMET's?")
            (scored,) = json.loads(written.read_text()).values()
        require(len(scored) == len(predictions), f"{self.program} scored {len(scored)} of {len(predictions)} texts.")
        return {"comet": 100.0 * sum(each["COMET"] for each in scored) / len(scored)}

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|first reference|{Path(self.program).name} --model {self.model}"

    def _run(self, options: list[str]) -> None:
        """Run the program. Raises ConfigError if it is not there or fails, as without its model."""
        try:
            ended = subprocess.run([self.program, *options], capture_output=True, text=True)
        except OSError as error:
            needed = "install unbabel-comet into an environment of its own"
            named = 'give COMET(program="ENVIRONMENT/bin/comet-score")'
            raise ConfigError(f"COMET cannot start {self.program} ({error.strerror}): {needed}, and {named}.") from None
        if ended.returncode:
            *_, reason = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            failed = f"{self.program} cannot score with {self.model} ({reason[:200]})"
            known = "a model of the Hub that is in its cache or can be downloaded, or a checkpoint's file"
            raise ConfigError(f"{failed}: give {known}.")
