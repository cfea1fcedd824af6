"""Preparation of a `Supervised` config: examples of tasks are tokenised, then packed into rows or put into buckets."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from research.config import (
    Buckets,
    Denoising,
    Mixing,
    Supervised,
    TrainedSentencePiece,
    UnlabelledText,
    require,
    tasks_in,
)
from research.config.base import digest
from research.config.examples import Split
from research.data import mixing
from research.data.corpora.denoising import check_early, open_corpora, prepare_text, recipes_of
from research.data.corpora.documents import left_out_notes
from research.data.corpora.duplicates import distinct
from research.data.corpora.overlap import check_disjoint
from research.data.corpora.tokens import Recipe
from research.data.corpora.vocabulary import tokenizer_for
from research.data.objective.checks import lengths_of
from research.data.packing import buckets
from research.data.packing.buckets import BucketedExamples, BucketedSplits, PreparedBuckets
from research.data.packing.packing import PackedRows
from research.data.source import PreparedData
from research.data.tasks.pairs import Pairs, SidesAsDocuments, distinct_examples, open_pairs
from research.data.tasks.task import TaskExamples, open_task
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.score import metrics


class OpenedTasks(NamedTuple):
    """Both splits of all tasks, in the order of the tasks, and of the text among them."""

    tokenizer: Tokenizer
    train: Sequence[TaskExamples]
    held_out: Sequence[TaskExamples]
    text: tuple[list[Recipe], list[Recipe]]  # both splits of each corpus


class TokenisedTasks(NamedTuple):
    """Tokens of both splits of all tasks, in the order of the tasks."""

    tokenizer: Tokenizer
    train: list[Pairs]
    held_out: list[Pairs]
    identities: tuple[list[str], list[str]]  # of the examples; independent of the tokenizer
    fingerprint: dict[str, str | int]
    notes: tuple[str, ...]  # of what is left out
    text: tuple[list[Recipe], list[Recipe]]  # both splits of each corpus


def prepare(config: Supervised, batch_size: int, prompt: range = range(0)) -> PreparedData:
    """Open and check examples, train or open the vocabulary, then tokenise and pack everything.

    The ids of `prompt` precede each source.
    Held-out rows are filled up to whole batches with empty rows, so that no example is left out. Raises ConfigError if
    anything that `config` names is missing, empty or damaged, or does not fit together.
    """
    tokenised = _tokenise_tasks(config, prompt)
    pad_id, widths, drop = (
        tokenised.tokenizer.pad_id,
        (config.input_length, config.target_length),
        config.too_long == "drop",
    )
    train, held_out = (
        [PackedRows(each, identity, *widths, drop, pad_id) for each, identity in zip(pairs, identities, strict=True)]
        for pairs, identities in zip((tokenised.train, tokenised.held_out), tokenised.identities, strict=True)
    )
    denoising = config.denoising
    text = None if denoising is None else prepare_text(denoising, tokenised.tokenizer, *tokenised.text)
    held_out[-1].empty = -sum(map(len, (*held_out, *(text.held_out if text else ())))) % batch_size
    for rows in (*train, *held_out):
        _warn_too_long(rows.name, rows.too_long, config)
    examples, sizes = tuple(rows.examples for rows in train), tuple(map(len, train))
    notes = (*map(str, train), *tokenised.notes)
    tasks = PreparedData(tokenised.tokenizer, tuple(train), tuple(held_out), (), tokenised.fingerprint, notes)
    if text is None or config.unlabelled is None:
        return tasks._replace(weights=mixing.row_weights(examples, sizes, config.mixing))
    return with_text(tasks, examples, text, config.unlabelled, config.mixing)


def with_text(
    tasks: PreparedData, examples: tuple[int, ...], text: PreparedData, unlabelled: UnlabelledText, mixture: Mixing
) -> PreparedData:
    """Mix text among the packed rows of tasks, which hold `examples` examples."""
    denoisers = len(text.train) // len(unlabelled.corpora)
    rate = unlabelled.rate or mixing.rate_of(sum(map(len, text.train)) // denoisers, mixture)
    weights = mixing.multitask_weights(examples, tuple(map(len, tasks.train)), mixture, text.weights, rate)
    share = sum(weights[len(tasks.train) :]) / sum(weights)
    of_text = {name.replace("data.", "data.unlabelled.", 1): value for name, value in text.fingerprint.items()}
    return tasks._replace(
        train=tasks.train + text.train,
        held_out=tasks.held_out + text.held_out,
        weights=weights,
        fingerprint=tasks.fingerprint | of_text | {"data.unlabelled.rate": repr(unlabelled.rate)},
        notes=(*tasks.notes, *text.notes, f"{share:.1%} of the rows are text"),
    )


def prepare_buckets(
    config: Supervised, batching: Buckets, batch_size: int, prompt: range = range(0)
) -> PreparedBuckets:
    """Prepare examples in buckets, like `prepare`."""
    tokenised = _tokenise_tasks(config, prompt)
    shapes = buckets.shapes(batching, config.target_length, batch_size)
    splits = []
    for pairs in (tokenised.train, tokenised.held_out):
        examples = BucketedExamples(pairs, shapes, config.too_long == "drop", tokenised.tokenizer.pad_id)
        for each, too_long in zip(pairs, examples.too_long, strict=True):
            _warn_too_long(each.name, too_long, config)
        splits.append(examples)
    made = BucketedSplits(*splits)
    return PreparedBuckets(tokenised.tokenizer, made, tokenised.fingerprint, (str(made), *tokenised.notes))


def recipes(config: Supervised) -> tuple[list[Recipe], list[Recipe]]:
    """Return the recipes for the streams of the text among the examples, of both splits; none if there is no text."""
    return _open(config).text


def _open(config: Supervised) -> OpenedTasks:
    """Open and check everything; train or open the vocabulary."""
    for task in config.tasks:  # before anything is built, which can take hours
        metrics.check(task.metrics)
    if not isinstance(config.tokenizer, TrainedSentencePiece):
        _check_languages(config, open_tokenizer(config.tokenizer))
    denoising = config.denoising
    if denoising is not None:
        check_early(denoising)
        _check_targets(denoising, config.target_length)
    train, held_out = _open_tasks(config, "train"), _open_tasks(config, "held_out")
    text, held_out_text = ([], []) if denoising is None else open_corpora(denoising)
    check_disjoint([*train, *text], [*held_out, *held_out_text], config.shared_files)
    if config.duplicates == "leave_out":
        train, text = distinct_examples(train, held_out), distinct(text, held_out_text)
    documents = [*map(SidesAsDocuments, train), *text]
    tokenizer = tokenizer_for(config.tokenizer, documents, Mixing(config.mixing.temperature))
    _check_languages(config, tokenizer)
    made = ([], []) if denoising is None else recipes_of(denoising, tokenizer, text, held_out_text)
    return OpenedTasks(tokenizer, train, held_out, made)


def _tokenise_tasks(config: Supervised, prompt: range) -> TokenisedTasks:
    tokenizer, train, held_out, text = _open(config)

    def pairs(split: Split, opened: Sequence[TaskExamples]) -> list[Pairs]:
        languages = [task.languages for task in tasks_in(config.tasks, split)]
        return [open_pairs(each, tokenizer, own, prompt) for each, own in zip(opened, languages, strict=True)]

    identities = [each.identity for each in train], [each.identity for each in held_out]
    fingerprint: dict[str, str | int] = {
        "data.tasks": digest(identities),
        "data.tasks, their languages": repr([task.languages for task in config.tasks]),
        "data.input_length": config.input_length,
        "data.target_length": config.target_length,
        "data.too_long": config.too_long,
        "data.batching": repr(config.batching),
        "data.mixing": repr(config.mixing),
    }
    if prompt:
        fingerprint["model.prompt"] = str(prompt)
    notes = left_out_notes(train, "examples")
    made = pairs("train", train), pairs("held_out", held_out)
    return TokenisedTasks(tokenizer, *made, identities, fingerprint, notes, text)


def _check_targets(text: Denoising, target_length: int) -> None:
    """Refuse rows of text that are longer than those of examples, which the model would be compiled for."""
    for denoiser in text.denoisers:
        length = lengths_of(denoiser.objective, text.input_length).targets
        require(
            length <= target_length,
            f"data.unlabelled.objective has {length} target tokens for {text.input_length} of input, and"
            f" data.target_length is {target_length}: set it to {length} or more.",
        )


def _check_languages(config: Supervised, tokenizer: Tokenizer) -> None:
    """Raise ConfigError if the tokenizer lacks a language of a task."""
    for task in config.tasks:
        source, target = task.languages
        tokenizer.source([""], source)
        tokenizer.target([""], target)
        tokenizer.start_id(target)


def _open_tasks(config: Supervised, split: Split) -> Sequence[TaskExamples]:
    return [open_task(task, split, config.manual_dir) for task in tasks_in(config.tasks, split)]


def _warn_too_long(name: str, too_long: int, config: Supervised) -> None:
    if too_long:
        action = "left out" if config.too_long == "drop" else "cut"
        print(
            f"{too_long:,} examples of {name} are longer than {config.input_length} input or {config.target_length}"
            f" target tokens: they are {action}.",
            file=sys.stderr,
            flush=True,
        )
