"""Evaluation on held-out data: the loss, what the model writes for a task, and where text was hidden."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.config import DecoderOnly, Experiment, Generation, Model, Supervised, Task, require, task_labels
from research.config.examples import Split
from research.data.batch import Batch
from research.data.tasks.task import Example, open_task
from research.data.tokenizer import Tokenizer
from research.data.tokenizer.sentinels import SENTINEL
from research.decode.generate import Generator
from research.decode.search import decode
from research.model.loss import Sums
from research.model.transformer import Params
from research.pretrained.find import with_controls
from research.score import metrics
from research.score.metrics import Score


@dataclass(frozen=True)
class Passage:
    """A held-out passage as the model writes it and as it was.

    Where the target lists what sentinels hide, `filled` and `original` are the input with its hidden spans in brackets;
    elsewhere they are what was written and the target.
    """

    filled: str
    original: str
    input: str


@dataclass(frozen=True)
class Asked:
    """Examples of a task whose targets are to be written. `label` stands before the names of its numbers."""

    label: str
    name: str
    task: Task
    examples: list[Example]

    @property
    def sources(self) -> list[str]:
        return [example.source for example in self.examples]

    @property
    def references(self) -> list[tuple[str, ...]]:
        return [example.references for example in self.examples]


class Sample(NamedTuple):
    """An example of a task, and what the model writes for it."""

    source: str
    written: str
    reference: str


def held_out(eval_step: Callable[[Params, Batch], Sums], params: Params, batches: Iterable[Batch]) -> dict[str, float]:
    """Mean negative log-likelihood in nats a target token, and accuracy under forced decoding."""
    sums: Any = None
    for batch in batches:
        of_batch = eval_step(params, batch)
        sums = of_batch if sums is None else jax.tree.map(lambda a, b: a + b, sums, of_batch)
    total = jax.device_get(sums)
    return {
        "held_out_loss": float(total.nll / total.weight),
        "held_out_accuracy": float(total.correct / total.weight),
    }


# --- Tasks ------------------------------------------------------------------------------------------------------------


def ask(data: Supervised, split: Split, most: int | None = None) -> list[Asked]:
    """The first `most` examples of each task, or all.

    Raises:
        ConfigError: a split is missing, or holds what cannot be read; or a metric cannot be computed here, or does not
            fit what is to be written.
    """
    asked = []
    for label, task in zip(task_labels(data.tasks), data.tasks, strict=True):
        metrics.check(task.metrics)
        examples = open_task(task, split, data.manual_dir)
        count = len(examples) if most is None else min(most, len(examples))
        read = examples.read(np.arange(count))
        metrics.check_references(task.metrics, [example.references for example in read], examples.name)
        asked.append(Asked(label, f"{label}{examples.name}", task, read))
    return asked


def generator_for(
    experiment: Experiment, task: Task, generation: Generation, params: Params, tokenizer: Tokenizer, mesh: Any
) -> Generator:
    """What writes the targets of a task in a run: sources are cut as in training, in batches of as many rows."""
    data = experiment.data
    assert isinstance(data, Supervised)
    return Generator(
        experiment.model,
        params,
        tokenizer,
        with_controls(generation, experiment.model, tokenizer, task.languages[1]),
        task.languages,
        batch_size=experiment.batch_size // experiment.microbatches,
        input_length=data.input_length,
        mesh=mesh,
    )


def check_length(experiment: Experiment) -> None:
    """Raises ConfigError where more is to be written than the model has positions, of one stack after the inputs."""
    model, generation = experiment.model, experiment.evaluation.generation
    if generation is None or model.longest is None:
        return
    inputs = experiment.data.input_length if isinstance(model.stacks, DecoderOnly) else 0
    most, limit = generation.max_length, model.longest - inputs
    after = f" after {inputs} inputs" if inputs else ""
    require(most <= limit, f"evaluation.generation.max_length is {most}: the model has {limit} positions{after}.")


def greedy(experiment: Experiment) -> Generation:
    """How tasks are written where an experiment does not say: as long as its targets are."""
    assert isinstance(experiment.data, Supervised)
    return Generation(max_length=min(experiment.data.target_length, experiment.model.longest or 2**31))


def write(generator: Generator, sources: Sequence[str], advance: Callable[[int], None]) -> list[str]:
    """The best output for each source; `advance` is told of every batch how many it had."""
    framed, _ = generator.prepare(sources)
    written = [""] * len(sources)
    for outputs in generator.run(framed):
        for number, (best, *_) in outputs.items():
            written[number] = best.text
        advance(len(outputs))
    return written


def score_written(asked: Asked, written: Sequence[str]) -> dict[str, Score]:
    scores = metrics.score(asked.task.metrics, written, asked.references)
    return {asked.label + name: score for name, score in scores.items()}


def samples(asked: Asked, written: Sequence[str], count: int) -> list[Sample]:
    shown = list(zip(asked.examples, written, strict=True))[:count]
    return [Sample(example.source, text, example.target) for example, text in shown]


# --- Denoising --------------------------------------------------------------------------------------------------------


def fill_in(model: Model, params: Params, batch: Batch, tokenizer: Tokenizer) -> list[Passage]:
    """The rows of a denoising batch, and what greedy decoding writes for each."""
    inputs, targets = np.asarray(batch.encoder_input_tokens), np.asarray(batch.decoder_target_tokens)
    if not len(inputs):
        return []
    generation = Generation(
        eos_token=last_token(batch, tokenizer), pad_token=tokenizer.pad_id, max_length=targets.shape[1]
    )
    starts = np.asarray(batch.decoder_input_tokens)[:, 0]
    predictions = decode(model, params, inputs, batch.encoder_segment_ids, generation=generation, start_tokens=starts)
    written = multihost_utils.process_allgather(predictions.tokens[:, 0], tiled=True)
    return [passage(*row, tokenizer) for row in zip(inputs, written, targets, strict=True)]


def last_token(batch: Batch, tokenizer: Tokenizer) -> int:
    """What every target ends with: EOS or, in mBART, a language; EOS where languages differ."""
    targets, weights = np.asarray(batch.decoder_target_tokens), batch.decoder_loss_weights
    lengths = np.full(len(targets), targets.shape[1]) if weights is None else np.sum(np.asarray(weights) > 0, axis=1)
    ends = {int(row[length - 1]) for row, length in zip(targets, lengths, strict=True)}
    return ends.pop() if len(ends) == 1 else tokenizer.eos_id


def passage(inputs: np.ndarray, written: np.ndarray, targets: np.ndarray, tokenizer: Tokenizer) -> Passage:
    if len(tokenizer.sentinel_ids) and targets[0] == tokenizer.sentinel_ids[0]:
        filled, original = (replace_sentinels(inputs, tokens, tokenizer) for tokens in (written, targets))
        return Passage(filled, original, tokenizer.decode(inputs))
    return Passage(*map(tokenizer.decode, (written, targets, inputs)))


def replace_sentinels(inputs: np.ndarray, targets: np.ndarray, tokenizer: Tokenizer) -> str:
    """The text of an input row, with [the target's span] where each sentinel stood and [] where the target has none."""
    spans = SENTINEL.split(tokenizer.decode(_before_eos(targets, tokenizer.eos_id)))
    hidden = {number: text.strip() for number, text in zip(spans[1::2], spans[2::2], strict=True)}
    text = tokenizer.decode(_before_eos(inputs, tokenizer.eos_id))
    return SENTINEL.sub(lambda match: f"[{hidden.get(match[1], '')}]", text)


def _before_eos(tokens: np.ndarray, eos_id: int) -> list[int]:
    ends = np.flatnonzero(tokens == eos_id)
    return [int(token) for token in (tokens[: ends[0]] if len(ends) else tokens)]
