"""Answers ranked by likelihood: the model scores each choice of an example, and the best one is the answer.

The score is log p(choice | source) in nats or, by token, that divided by the number of tokens of the choice. Tokens are
those that the decoder must predict, with EOS and language codes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from research.config import require
from research.config.task import Choices
from research.decode.evaluate import EvalTask
from research.decode.generate import Generator
from research.score import ranking
from research.score.metrics import Score

Likelihood = tuple[float, int]  # log-probability of a text in nats, and its tokens
RANKED_TASKS = "tasks with labels or choices, such as MNLI() or MultipleChoice(...)"


class Ranked(NamedTuple):
    """The choices of all examples of a task with their likelihoods."""

    choices: list[Choices]
    likelihoods: list[list[Likelihood]]  # of each choice of each example
    by_token: bool

    @property
    def scores(self) -> list[list[float]]:
        return [[total / tokens if self.by_token else total for total, tokens in each] for each in self.likelihoods]

    @property
    def answers(self) -> list[str]:
        """The best choice of each example."""
        return [own.texts[ranking.best(scores)] for own, scores in zip(self.choices, self.scores, strict=True)]

    def numbers(self) -> dict[str, Score]:
        """Compute the scores of ranking, by name."""
        counts = {len(own.texts) for own in self.choices}
        kind = f"choices:{counts.pop() if len(counts) == 1 else 'var'}"
        signature = f"{kind}|best by log-likelihood{' a token' if self.by_token else ''}"
        found = ranking.score(self.choices, self.scores)
        return {name: Score(value, signature) for name, value in found.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the choices of each example as plain data."""
        for own, likelihoods in zip(self.choices, self.likelihoods, strict=True):
            texts = [
                {"text": text, "log_likelihood": total, "tokens": tokens}
                for text, (total, tokens) in zip(own.texts, likelihoods, strict=True)
            ]
            yield {"choices": texts, "right": own.right, "weight": own.weight}


def choices_of(task: EvalTask) -> list[Choices]:
    """Return the choices of each example. Raises ConfigError if one has none."""
    lacking = [number for number, example in enumerate(task.examples, 1) if example.choices is None]
    where = f"example {lacking[0]} of {task.name}" if lacking else ""
    require(not lacking, f"{where} has no choices to rank: answers are ranked for {RANKED_TASKS}.")
    return [example.choices for example in task.examples if example.choices is not None]


def pairs_to_score(task: EvalTask) -> list[tuple[str, str]]:
    """Return (source, text) for each choice of each example, and for its target; equal texts are scored once."""
    return [
        (example.source, text) for example, texts in zip(task.examples, _texts(task), strict=True) for text in texts
    ]


def check_not_empty(generator: Generator, task: EvalTask) -> None:
    """Raise ConfigError if the tokenizer makes no token of a choice."""
    language = generator.languages[1]
    (nothing,) = generator.tokenizer.target([""], language)
    for number, own in enumerate(choices_of(task), 1):
        for text, ids in zip(own.texts, generator.tokenizer.target(own.texts, language), strict=True):
            where = f"example {number} of {task.name}"
            require(ids != nothing, f"{where} has the choice {text!r}, of which the tokenizer makes no token.")


def ranked(task: EvalTask, scored: Sequence[Likelihood], by_token: bool) -> tuple[Ranked, list[Likelihood]]:
    """Return the choices with their likelihoods, and the likelihood of each target, from those of `pairs_to_score`."""
    remaining = iter(scored)
    by_text = [{text: next(remaining) for text in texts} for texts in _texts(task)]
    choices = choices_of(task)
    likelihoods = [[found[text] for text in own.texts] for found, own in zip(by_text, choices, strict=True)]
    targets = [found[example.target] for found, example in zip(by_text, task.examples, strict=True)]
    return Ranked(choices, likelihoods, by_token), targets


def _texts(task: EvalTask) -> list[list[str]]:
    """Return the distinct texts to score of each example."""
    return [
        list(dict.fromkeys((*own.texts, example.target)))
        for example, own in zip(task.examples, choices_of(task), strict=True)
    ]
