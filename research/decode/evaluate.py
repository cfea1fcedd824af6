"""Evaluation on held-out data: the loss, predictions for tasks, and infilled passages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.config import DecoderOnly, Experiment, Generation, Model, Supervised, Task, labelled_tasks, require
from research.config.examples import Split
from research.data.batch import Batch
from research.data.tasks.task import Example, open_task
from research.data.tasks.text_to_text import TextToText
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
    """A held-out passage as the model writes it, and the original.

    If the target consists of sentinels and spans, `filled` and `original` are the input with its hidden spans in
    brackets; otherwise they are the prediction and the target.
    """

    filled: str
    original: str
    input: str


@dataclass(frozen=True)
class EvalTask:
    """The examples of a task to be evaluated; `label` is the prefix of its metrics' names."""

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

    @property
    def more(self) -> list[Mapping[str, str]]:
        """The texts for metrics beside the references: the source without a prefix, and what the task gives."""
        prefix = self.task.used_prefix if isinstance(self.task, TextToText) else ""
        return [{"source": each.source.removeprefix(prefix), **each.more} for each in self.examples]


class Written(NamedTuple):
    """The outputs for a task, and the number of those that are cut at max_length."""

    texts: list[str]
    unfinished: int


class Sample(NamedTuple):
    """An example of a task, with the model's prediction."""

    source: str
    written: str
    reference: str


def held_out(
    eval_step: Callable[[Params, Batch], Sums],
    params: Params,
    batches: Iterable[Batch],
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Compute the mean negative log-likelihood per target token, in nats, and the accuracy, with teacher forcing.

    `after_batch` is called when a batch is finished; the next one is then on the device already.
    """
    sums: Any = None
    for batch in batches:
        of_batch = eval_step(params, batch)
        if sums is not None:
            jax.block_until_ready(sums)
            after_batch()
        sums = of_batch if sums is None else jax.tree.map(lambda a, b: a + b, sums, of_batch)
    total = jax.device_get(sums)
    return {
        "held_out_loss": float(total.nll / total.weight),
        "held_out_accuracy": float(total.correct / total.weight),
    }


# --- Tasks ------------------------------------------------------------------------------------------------------------


def load_eval_tasks(data: Supervised, split: Split, most: int | None = None) -> list[EvalTask]:
    """Read the first `most` examples of each task, or all.

    Raises:
        ConfigError: a split is missing or cannot be read; or a metric cannot be computed on this machine, or does not
            suit the references.
    """
    tasks = []
    for label, task in labelled_tasks(data.tasks, split):
        metrics.check(task.metrics)
        examples = open_task(task, split, data.manual_dir)
        count = len(examples) if most is None else min(most, len(examples))
        read = examples.read(np.arange(count))
        metrics.check_references(task.metrics, [example.references for example in read], examples.name)
        tasks.append(EvalTask(label, f"{label}{examples.name}", task, read))
    return tasks


def generator_for(
    experiment: Experiment, task: Task, generation: Generation, params: Params, tokenizer: Tokenizer, mesh: Any
) -> Generator:
    """Create the generator for a task of a run; sources are truncated and batched as in training."""
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
    """Raise ConfigError if generation exceeds the model's positions, in a decoder-only model after the inputs."""
    model, generation = experiment.model, experiment.generation
    if generation is None or model.longest is None:
        return
    inputs = experiment.data.input_length if isinstance(model.stacks, DecoderOnly) else 0
    most, limit = generation.max_length, model.longest - inputs
    after = f" after {inputs} inputs" if inputs else ""
    require(most <= limit, f"evaluation.generation.max_length is {most}: the model has {limit} positions{after}.")


def greedy(experiment: Experiment) -> Generation:
    """Return the default generation settings of tasks: greedy, up to the target length."""
    assert isinstance(experiment.data, Supervised)
    return Generation(max_length=min(experiment.data.target_length, experiment.model.longest or 2**31))


def write(generator: Generator, sources: Sequence[str], advance: Callable[[int], None]) -> Written:
    """Return the best output for each source; call `advance` with the size of each finished batch."""
    framed, _ = generator.prepare(sources)
    texts, unfinished = [""] * len(sources), 0
    for outputs in generator.run(framed):
        for number, (best, *_) in outputs.items():
            texts[number] = best.text
            unfinished += generator.unfinished(best.tokens)
        advance(len(outputs))
    return Written(texts, unfinished)


def score_predictions(task: EvalTask, predictions: Sequence[str]) -> dict[str, Score]:
    scores = metrics.score(task.task.metrics, predictions, task.references, task.more)
    return {task.label + name: score for name, score in scores.items()}


def samples(task: EvalTask, predictions: Sequence[str], count: int) -> list[Sample]:
    shown = list(zip(task.examples, predictions, strict=True))[:count]
    return [Sample(example.source, text, example.target) for example, text in shown]


# --- Denoising --------------------------------------------------------------------------------------------------------


def fill_in(model: Model, params: Params, batch: Batch, tokenizer: Tokenizer) -> list[Passage]:
    """Decode the rows of a denoising batch greedily; return each with its original."""
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
    """Return the last token of every target: EOS or, in mBART, the language code; EOS if these differ."""
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
    """Return the text of an input row with each sentinel replaced by [the target's span], or [] if it has none."""
    spans = SENTINEL.split(tokenizer.decode(_before_eos(targets, tokenizer.eos_id)))
    hidden = {number: text.strip() for number, text in zip(spans[1::2], spans[2::2], strict=True)}
    text = tokenizer.decode(_before_eos(inputs, tokenizer.eos_id))
    return SENTINEL.sub(lambda match: f"[{hidden.get(match[1], '')}]", text)


def _before_eos(tokens: np.ndarray, eos_id: int) -> list[int]:
    ends = np.flatnonzero(tokens == eos_id)
    return [int(token) for token in (tokens[: ends[0]] if len(ends) else tokens)]
