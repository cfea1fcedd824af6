"""Preparation of a `Denoising` config: corpora become token streams, each under the objectives that corrupt it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from research.config import ConfigError, Denoiser, Denoising, TrainedSentencePiece, require
from research.config.base import digest
from research.config.parts import expect
from research.data import mixing
from research.data.batch import Batch, with_start_token
from research.data.corpora.documents import Documents, left_out_notes, open_documents
from research.data.corpora.duplicates import distinct
from research.data.corpora.overlap import check_disjoint
from research.data.corpora.tokens import Recipe, TokenStream
from research.data.corpora.vocabulary import tokenizer_for
from research.data.objective.checks import corrupt_block, filled_fields, lengths_of, try_out
from research.data.source import PreparedData
from research.data.tokenizer import Tokenizer, open_tokenizer


class DenoisingSource:
    """A token stream cut into rows, which a denoiser corrupts anew at each read."""

    def __init__(
        self,
        recipe: Recipe,
        stream: TokenStream,
        denoiser: Denoiser,
        input_length: int,
        tokenizer: Tokenizer,
        language: str | None,
    ) -> None:
        self.name, self.digest = stream.name, stream.text_digest
        self.recipe, self.stream, self.denoiser, self.language = recipe, stream, denoiser, language
        self._objective, self._tokenizer = denoiser.objective, tokenizer
        self._prefix = np.array(tokenizer.encode(denoiser.prefix), np.int32)
        num_special_tokens = sum(map(len, tokenizer.special_tokens(language)))
        self._lengths = lengths_of(denoiser.objective, input_length - len(self._prefix), num_special_tokens)
        self.raw, self.targets = self._lengths.raw, self._lengths.targets
        self.inputs = len(self._prefix) + self._lengths.inputs
        self.rows = stream.rows(self.raw)
        self._filled: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, rows: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Batch:
        self.stream.check(rows, self.raw)
        batch = corrupt_block(self._objective, self.rows[rows], self._lengths, self._tokenizer, rng, self.language)
        filled = filled_fields(batch)
        self._filled = self._filled or filled
        if filled != self._filled:
            others = ", ".join(sorted({*filled} ^ {*self._filled}))
            expect(False, self._objective, "corrupt", f"returned {others} in one block and None in another")
        return add_prefix(batch, self._prefix) if len(self._prefix) else batch


def add_prefix(batch: Batch, prefix: Int32[np.ndarray, " p"]) -> Batch:
    """Prepend the prefix tokens to each of the encoder's rows."""
    tokens, segments, positions = batch.encoder_input_tokens, batch.encoder_segment_ids, batch.encoder_positions
    before = np.broadcast_to(prefix, (len(tokens), len(prefix)))
    if segments is not None:
        segments = np.concatenate([np.ones_like(before), segments], axis=1)
    if positions is not None:
        first = np.broadcast_to(np.arange(len(prefix), dtype=positions.dtype), before.shape)
        positions = np.concatenate([first, positions + np.int32(len(prefix))], axis=1)
    tokens = np.concatenate([before, tokens], axis=1)
    return batch._replace(encoder_input_tokens=tokens, encoder_segment_ids=segments, encoder_positions=positions)


def corrupted_text(
    data: Denoising, tokenizer: Tokenizer, text: str, start_token: int | None, seed: int
) -> tuple[Batch, int]:
    """Corrupt a text as one row, by the first denoiser and in the language of the first corpus.

    Return the row and the number of tokens at the end of the text that are left out, as no row has its length.

    Raises:
        ConfigError: the text is longer than a row of the data, or too short for the objective.
    """
    denoiser, language = data.denoisers[0], data.corpora[0].language
    prefix, ids = np.array(tokenizer.encode(denoiser.prefix), np.int32), tokenizer.encode(text)
    num_special_tokens, room = sum(map(len, tokenizer.special_tokens(language))), data.input_length - len(prefix)
    most = lengths_of(denoiser.objective, room, num_special_tokens).raw
    require(len(ids) <= most, f"The text has {len(ids):,} tokens, and a row has at most {most:,}: give a shorter one.")
    try:
        found = (lengths_of(denoiser.objective, length, num_special_tokens) for length in range(room, 0, -1))
        lengths = next(one for one in found if one.raw <= len(ids))
    except (ConfigError, StopIteration):
        raise ConfigError(f"The text has {len(ids):,} tokens, too few for the objective: give a longer one.") from None
    tokens = np.array([ids[: lengths.raw]], np.uint32)
    batch = corrupt_block(denoiser.objective, tokens, lengths, tokenizer, np.random.default_rng(seed), language)
    batch = add_prefix(batch, prefix) if len(prefix) else batch
    return batch if start_token is None else with_start_token(batch, start_token), len(ids) - lengths.raw


def prepare(data: Denoising) -> PreparedData:
    """Open and check corpora, train or open the vocabulary, and tokenise the text.

    Raises ConfigError if anything that `data` names is missing, empty or damaged, or does not fit together.
    """
    return prepare_text(data, *recipes(data))


def prepare_text(
    data: Denoising, tokenizer: Tokenizer, train: Sequence[Recipe], held_out: Sequence[Recipe]
) -> PreparedData:
    """Tokenise the text and combine every corpus with every denoiser."""
    languages = [corpus.language for corpus in data.corpora]

    def broken(split: Sequence[Recipe]) -> tuple[DenoisingSource, ...]:
        """Combine every corpus with every denoiser, in the order of the corpora."""
        streams = [recipe.stream() for recipe in split]
        return tuple(
            DenoisingSource(recipe, stream, denoiser, data.input_length, tokenizer, language)
            for recipe, stream, language in zip(split, streams, languages, strict=True)
            for denoiser in data.denoisers
        )

    train_sources, held_out_sources = broken(train), broken(held_out)
    rows = np.array([len(source) for source in train_sources]).reshape(len(train), -1)
    shares = [denoiser.weight for denoiser in data.denoisers]
    of_corpora = mixing.weights(tuple(round(np.average(of_one, weights=shares)) for of_one in rows), data.mixing)
    texts = [source.digest for source in (*train_sources[:: len(shares)], *held_out_sources[:: len(shares)])]
    fingerprint: dict[str, str | int] = {
        "data.corpora": digest([*texts, *filter(None, languages), *["EOS after lines"] * data.eos_after_lines]),
        "data.objective": repr(data.objective),
        "data.input_length": data.input_length,
        "data.mixing": repr(data.mixing),
    }
    weights = mixing.cross_weights(of_corpora, tuple(shares))
    notes = left_out_notes([recipe.documents for recipe in train])
    return PreparedData(tokenizer, train_sources, held_out_sources, weights, fingerprint, notes)


def recipes(data: Denoising) -> tuple[Tokenizer, list[Recipe], list[Recipe]]:
    """Train or open the vocabulary; return it with the recipes for the training and held-out streams of each corpus."""
    check_early(data)
    train, held_out = open_corpora(data)
    check_disjoint(train, held_out, data.shared_files)
    if data.duplicates == "leave_out":
        train = distinct(train, held_out)
    tokenizer = tokenizer_for(data.tokenizer, train, data.mixing)
    return tokenizer, *recipes_of(data, tokenizer, train, held_out)


def open_corpora(data: Denoising) -> tuple[list[Documents], list[Documents]]:
    """Open the corpora; return the documents to train on and those held out."""
    train = [open_documents(corpus, "train") for corpus in data.corpora]
    return train, [open_documents(corpus, "held_out") for corpus in data.corpora]


def recipes_of(
    data: Denoising, tokenizer: Tokenizer, train: Sequence[Documents], held_out: Sequence[Documents]
) -> tuple[list[Recipe], list[Recipe]]:
    """Return the recipes for the streams of both splits. Refuse a tokenizer with which they cannot be made."""
    check_tokenizer(data, tokenizer)
    of_train, of_held_out = (
        [Recipe(documents, tokenizer, data.eos_after_lines) for documents in split] for split in (train, held_out)
    )
    return of_train, of_held_out


def check_early(data: Denoising) -> None:
    """Check everything that is known before a corpus is built, which can take hours."""
    named = {corpus.language for corpus in data.corpora}
    for denoiser in data.denoisers:
        unknown = sorted(set(getattr(denoiser.objective, "unspaced", ())) - named)
        require(not unknown, f"objective.unspaced names {', '.join(unknown)}: no corpus has this language.")
    if not isinstance(data.tokenizer, TrainedSentencePiece):
        return check_tokenizer(data, open_tokenizer(data.tokenizer))
    for denoiser in data.denoisers:
        lengths_of(denoiser.objective, data.input_length, num_special_tokens=1 + (len(data.tokenizer.languages) > 0))
    known: set[str | None] = {*data.tokenizer.languages} if data.tokenizer.languages else {None}
    wrong = sorted(map(repr, named - known))
    require(
        not wrong,
        f"A corpus has language {' and another '.join(wrong)}: data.tokenizer.languages has"
        f" {', '.join(data.tokenizer.languages) or 'none'}.",
    )


def check_tokenizer(data: Denoising, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that lacks a language of the corpora, or with which an objective fails."""
    for language in dict.fromkeys(corpus.language for corpus in data.corpora):
        num_special_tokens = sum(map(len, tokenizer.special_tokens(language)))
        for denoiser in data.denoisers:
            room = data.input_length - len(tokenizer.encode(denoiser.prefix))
            try_out(denoiser.objective, lengths_of(denoiser.objective, room, num_special_tokens), tokenizer, language)
