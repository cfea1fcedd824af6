"""An overview of the data of an experiment: text or examples, their lengths, and rows as training reads them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from research.config import Denoising, Experiment, Supervised, require, tasks_in
from research.config.examples import Split
from research.data import mixing
from research.data.batch import Batch, field_or_default
from research.data.corpora.denoising import DenoisingSource
from research.data.corpora.documents import LeftOut
from research.data.corpora.tokens import Recipe, document_order
from research.data.packing.packing import PackedRows
from research.data.pipeline import BucketPipeline, Pipeline
from research.data.tasks.pairs import Pairs
from research.data.tokenizer import Tokenizer
from research.storage.progress import Progress

SAMPLED, SAMPLED_CHARACTERS = 2048, 1 << 23  # documents of a split that are tokenised for their lengths, at most
LOOKED_AT = 1 << 16  # rows among which the first of every denoiser or task is shown
BINS = 16  # of a chart of lengths
QUANTILES = {"shortest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "longest": 1.0}

TokenLengths = Int64[np.ndarray, " _"]


class TextSplit(NamedTuple):
    """One split of a corpus. Its last four fields are of a sample: of all documents, if there are few."""

    name: str
    split: str
    language: str | None
    documents: int
    tokens: int
    rows: int  # of all denoisers
    epoch: float | None  # rows of it among as many rows as there are to train on: by the mixing rates
    left_out: LeftOut
    lengths: TokenLengths
    characters: int
    bytes: int
    unknown: int  # tokens


class TaskSplit(NamedTuple):
    """One split of a task's examples. Lengths are in tokens, with special tokens, before anything is cut."""

    name: str
    split: str
    languages: tuple[str | None, str | None]
    rows: int | None  # None if examples are in buckets, which tasks share
    epoch: float | None
    sources: TokenLengths
    targets: TokenLengths
    long: tuple[int, int, int]  # sources and targets that are longer than a row, and examples with one of them


class DenoiserShare(NamedTuple):
    """A denoiser with the tokens of its rows, and its share of all rows to train on."""

    objective: str
    prefix: str
    raw: int
    inputs: int
    targets: int
    share: float


class ShownRow(NamedTuple):
    """A row of training: its number in the order of the run, and the texts of its one or more examples."""

    row: int
    name: str
    objective: str
    raw: str  # the text before it was corrupted, or nothing
    inputs: list[str]
    targets: list[str]
    tokens: tuple[int, int]  # of inputs and targets, without padding


class Overview(NamedTuple):
    texts: list[TextSplit]
    tasks: list[TaskSplit]
    denoisers: list[DenoiserShare]
    rows: list[ShownRow]
    train_rows: int
    notes: tuple[str, ...]


def overview(config: Experiment, pipeline: Pipeline, rows: Sequence[int], each: int) -> Overview:
    """Describe the data of an experiment; show the given rows or, without any, `each` of every denoiser or task."""
    data = config.data
    for row in rows:
        require(
            0 <= row < pipeline.train_rows,
            f"--example is {row}: an epoch has the rows from 0 to {pipeline.train_rows - 1:,}.",
        )
    texts, tasks, denoisers = list[TextSplit](), list[TaskSplit](), list[DenoiserShare]()
    if isinstance(data, Supervised):
        tasks = task_splits(data, pipeline)
    if (text := data if isinstance(data, Denoising) else data.denoising) is not None:
        texts, denoisers = text_splits(pipeline), denoiser_shares(text, pipeline)
    shown = [shown_row(pipeline, row) for row in rows or first_rows(data, pipeline, each)]
    return Overview(texts, tasks, denoisers, shown, pipeline.train_rows, pipeline.notes)


def by_source(pipeline: Pipeline) -> list[float]:
    """Return the rows of each source among as many rows as there are to train on."""
    weights = pipeline.order.weights
    return [pipeline.train_rows * weight / sum(weights) for weight in weights]


# --- Text -------------------------------------------------------------------------------------------------------------


def text_splits(pipeline: Pipeline) -> list[TextSplit]:
    """Describe both splits of each corpus. A corpus has a source for each denoiser, one after the other."""
    splits = []
    for split, sources in (("train", pipeline.sources), ("held_out", pipeline.held_out_sources)):
        epochs = by_source(pipeline) if split == "train" else [None] * len(sources)
        recipes = dict[Recipe, list[tuple[DenoisingSource, float | None]]]()
        for source, epoch in zip(sources, epochs, strict=True):
            if not isinstance(source, DenoisingSource):
                continue  # of a task
            recipes.setdefault(source.recipe, []).append((source, epoch))
        for recipe, own in recipes.items():
            first = own[0][0]
            of_epoch = [epoch for _, epoch in own if epoch is not None]
            counted = len(recipe.documents), len(first.stream.tokens), sum(len(source) for source, _ in own)
            facts = recipe.documents.name, split, first.language, *counted, sum(of_epoch) if of_epoch else None
            splits.append(TextSplit(*facts, recipe.documents.left_out, *_sample(recipe, pipeline.tokenizer.unknown_id)))
    return splits


def _sample(recipe: Recipe, unknown_id: int) -> tuple[TokenLengths, int, int, int]:
    """Tokenise the first documents of the fixed pseudo-random order: their lengths, characters, bytes and unknowns."""
    lengths, characters, size, unknown = list[int](), 0, 0, 0
    most = min(SAMPLED, len(recipe.documents))
    with Progress(f"Sampling {recipe.documents.name}", most, "documents") as progress:
        for texts in document_order(recipe.documents, range(most)):
            for text in texts:
                ids = recipe.encode(text)
                lengths.append(len(ids))
                characters, size = characters + len(text), size + len(text.encode())
                unknown += ids.count(unknown_id)
                progress.advance()
                if characters > SAMPLED_CHARACTERS:
                    return np.array(lengths, np.int64), characters, size, unknown
    return np.array(lengths, np.int64), characters, size, unknown


def denoiser_shares(data: Denoising, pipeline: Pipeline) -> list[DenoiserShare]:
    """Describe the denoisers, with their shares of all rows."""
    kinds, epochs = len(data.denoisers), by_source(pipeline)
    of_text = [
        (it, epoch) for it, epoch in zip(pipeline.sources, epochs, strict=True) if isinstance(it, DenoisingSource)
    ]
    shares = np.reshape([epoch for _, epoch in of_text], (-1, kinds)).sum(axis=0) / pipeline.train_rows
    first = zip(data.denoisers, [source for source, _ in of_text[:kinds]], shares.tolist(), strict=True)
    return [
        DenoiserShare(repr(denoiser.objective), denoiser.prefix, source.raw, source.inputs, source.targets, share)
        for denoiser, source, share in first
    ]


# --- Examples ---------------------------------------------------------------------------------------------------------


def task_splits(data: Supervised, pipeline: Pipeline) -> list[TaskSplit]:
    splits = []
    names: tuple[Split, Split] = ("train", "held_out")
    for split, opened in zip(names, (_pairs(pipeline, 0), _pairs(pipeline, 1)), strict=True):
        for (pairs, rows, epoch), task in zip(opened, tasks_in(data.tasks, split), strict=True):
            sources, targets = pairs.sources.lengths, pairs.targets.lengths
            long = sources > data.input_length, targets > data.target_length
            counts = int(long[0].sum()), int(long[1].sum()), int((long[0] | long[1]).sum())
            splits.append(TaskSplit(pairs.name, split, task.languages, rows, epoch, sources, targets, counts))
    return splits


def _pairs(pipeline: Pipeline, split: int) -> list[tuple[Pairs, int | None, float | None]]:
    """Return the tokenised examples of each task, with their rows and those of an epoch, where tasks have their own."""
    if isinstance(pipeline, BucketPipeline):
        return [(pairs, None, None) for pairs in (pipeline.buckets.train, pipeline.buckets.held_out)[split].tasks]
    sources = (pipeline.sources, pipeline.held_out_sources)[split]
    epochs = [None] * len(sources) if split else by_source(pipeline)
    found = list[tuple[Pairs, int | None, float | None]]()
    for source, epoch in zip(sources, epochs, strict=True):
        if isinstance(source, PackedRows):
            found.append((source.pairs, source.rows, epoch))
    return found


# --- Rows -------------------------------------------------------------------------------------------------------------


def first_rows(data: Denoising | Supervised, pipeline: Pipeline, each: int) -> list[int]:
    """Return the first rows of every denoiser, or of every task and text; of buckets, the first."""
    looked_at = min(LOOKED_AT, pipeline.train_rows)
    if isinstance(pipeline, BucketPipeline):
        return list(range(min(each, looked_at)))
    sources, _ = mixing.locate(np.arange(looked_at), pipeline.order.weights)
    kinds = len(data.denoisers) if isinstance(data, Denoising) else len(pipeline.sources)
    return [int(row) for kind in range(kinds) for row in np.flatnonzero(sources % kinds == kind)[:each]]


def shown_row(pipeline: Pipeline, row: int) -> ShownRow:
    batch, tokenizer = pipeline.train_row(row), pipeline.tokenizer
    sides = [_segments(batch, side, tokenizer) for side in ("encoder_input", "decoder_target")]
    tokens = sum(map(len, sides[0])), sum(map(len, sides[1]))
    inputs = [_text(ids, tokenizer) for ids in sides[0]]
    targets = [tokenizer.decode(ids) for ids in sides[1]]
    name, objective, raw = "", "", ""
    if not isinstance(pipeline, BucketPipeline):
        (part,) = pipeline.order(row, row + 1)
        source = pipeline.sources[part.source]
        name = source.name
        if isinstance(source, DenoisingSource):
            objective, raw = repr(source.denoiser.objective), tokenizer.decode(source.rows[part.rows[0]])
    return ShownRow(row, name, objective, raw, inputs, targets, tokens)


def _segments(batch: Batch, side: str, tokenizer: Tokenizer) -> list[np.ndarray]:
    """Return the ids of each example of a row, without padding."""
    ids = getattr(batch, f"{side}_tokens")[0]
    segments = field_or_default(batch, f"{side.partition('_')[0]}_segment_ids")[0]
    return [ids[segments == number] for number in range(1, int(segments.max()) + 1)]


def _text(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return the text of ids of the encoder, which may have a vocabulary of its own."""
    if tokenizer.size == tokenizer.target_size:
        return tokenizer.decode(ids)
    return b"".join(tokenizer.token_bytes[int(id)] for id in ids).decode(errors="replace")


# --- Lengths ----------------------------------------------------------------------------------------------------------


def quantiles(lengths: TokenLengths) -> dict[str, int]:
    """Return the shortest, median and longest length and those in between, each one that occurs."""
    return {name: int(np.quantile(lengths, at, method="inverted_cdf")) for name, at in QUANTILES.items()}


def edges(several: Sequence[TokenLengths]) -> Int64[np.ndarray, " bins_and_one"]:
    """Return the edges of bins that cover all lengths, on a logarithmic axis: up to `BINS`, fewer for small lengths."""
    longest = max([1, *(int(lengths.max()) for lengths in several if len(lengths))])
    return np.unique(np.round(np.geomspace(1, longest + 1, BINS + 1)).astype(np.int64))


def histogram(lengths: TokenLengths, bins: Int64[np.ndarray, " bins_and_one"]) -> list[int]:
    """Count the lengths in each bin; empty texts count in the first."""
    return np.histogram(np.maximum(lengths, 1), bins)[0].tolist()


def as_json(found: Overview) -> dict[str, Any]:
    """Return the overview as what JSON can hold: lengths as quantiles and counts between edges."""

    def plain(split: TextSplit | TaskSplit) -> dict[str, Any]:
        values = split._asdict()
        if isinstance(split, TextSplit):
            values["left_out"] = split.left_out._asdict()
        for name in [name for name, value in values.items() if isinstance(value, np.ndarray)]:
            bins = edges([values[name]])
            counted = {"edges": bins.tolist(), "counts": histogram(values[name], bins), "of": len(values[name])}
            values[name] = {**quantiles(values[name]), **counted}
        return values

    return {
        "texts": [plain(split) for split in found.texts],
        "tasks": [plain(split) for split in found.tasks],
        "denoisers": [denoiser._asdict() for denoiser in found.denoisers],
        "rows": [row._asdict() for row in found.rows],
        "train_rows": found.train_rows,
        "notes": list(found.notes),
    }
