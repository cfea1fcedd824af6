"""Text in, text out: lines are sorted by length, padded to few shapes, decoded in batches, and returned by number."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt

from research.config import Generation, Model, Sampling, require
from research.config.adapter import source_room
from research.data.batch import Batch
from research.data.tokenizer import Tokenizer
from research.decode.prepare import prepared
from research.decode.search import decode_prepared, forward, score
from research.decode.stop_strings import StopTable, stop_table
from research.model.transformer import Params
from research.parallel.mesh import place_rows

SHORTEST = 16  # tokens; padded lengths of batches are this times a power of two


class Hypothesis(NamedTuple):
    text: str
    tokens: list[int]  # up to and including EOS
    score: float  # log-probability in nats, in beam search divided by the length penalty; 0 if not computed


Outputs = dict[int, list[Hypothesis]]  # by line number, from 0
FramedPair = tuple[list[int], list[int]]  # ids of a source and a target, with control tokens


@dataclass
class Notes:
    """The lines that were empty or truncated."""

    empty: list[int] = field(default_factory=list)  # line numbers, from 0
    truncated: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        messages = [
            f"{len(lines)} {what} (the first is number {lines[0] + 1})"
            for lines, what in (
                (self.empty, "lines are empty and give empty outputs"),
                (self.truncated, "lines are longer than the model's positions and were truncated"),
            )
            if lines
        ]
        return "; ".join(messages)


@dataclass(frozen=True)
class Generator:
    """A model with its tokenizer and settings for decoding; `languages` are those of the source and the target.

    Sources, with the model's prompt, are truncated to its positions and, if given, to `input_length`; targets to
    `target_length`, if given. On a mesh over several hosts all of them run one program, and each gets all outputs.
    """

    model: Model
    params: Params
    tokenizer: Tokenizer
    generation: Generation
    languages: tuple[str | None, str | None] = (None, None)
    batch_size: int = 32
    input_length: int | None = None
    target_length: int | None = None
    seed: int = 0
    scores: bool = False
    mesh: jax.sharding.Mesh | None = None

    def prepare(self, lines: Sequence[str], strict: bool = False) -> tuple[list[list[int]], Notes]:
        """Encode each line with its control tokens, truncated to the model's limit; an empty line has no ids.

        Raises:
            ConfigError: a language is unknown; or, with `strict`, a line is empty or too long.
        """
        limit, notes = self._longest, Notes()
        framed = self._sources(lines)
        for number, line in enumerate(lines):
            if not line.strip():
                require(not strict, f"Line {number + 1} is empty.")
                notes.empty.append(number)
                framed[number] = []
            elif limit is not None and len(framed[number]) > limit:
                message = f"Line {number + 1} has {len(framed[number])} tokens, but the model has {limit} positions."
                require(not strict, message)
                notes.truncated.append(number)
                framed[number] = self._sources([line], limit)[0]
        return framed, notes

    def run(self, framed: Sequence[Sequence[int]], skip: frozenset[int] = frozenset()) -> Iterator[Outputs]:
        """Yield the outputs of each batch as it finishes, longest lines first: memory runs out at once or never.

        Lines in `skip` are left out. A line's samples depend on the seed and its number, not on its batch.
        """
        empty = [number for number, ids in enumerate(framed) if not ids and number not in skip]
        if empty:
            yield {number: [Hypothesis("", [], 0.0)] * self.generation.outputs for number in empty}
        waiting = [number for number, ids in enumerate(framed) if ids and number not in skip]
        waiting.sort(key=lambda number: -len(framed[number]))
        for start in range(0, len(waiting), self.batch_size):
            numbers = waiting[start : start + self.batch_size]
            yield self._decode(numbers, [framed[number] for number in numbers])

    def _decode(self, numbers: list[int], rows: list[Sequence[int]]) -> Outputs:
        tokens, segments = self._padded(rows)
        # Padding rows repeat the last number.
        of_rows = jnp.asarray([*numbers, *[numbers[-1]] * (self.batch_size - len(numbers))], jnp.uint32)
        keys = None
        if isinstance(self.generation.method, Sampling):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), of_rows)
        sources = self._placed((tokens, segments))
        settings = {"generation": self.generation, "keys": keys, "scores": self.scores, "stops": self.stops}
        outputs = decode_prepared(self.network, *sources, **settings)
        written, scores = fetched(outputs.tokens), fetched(outputs.scores)
        return {
            number: [self._hypothesis(*pair) for pair in zip(written[row], scores[row].tolist(), strict=True)]
            for row, number in enumerate(numbers)
        }

    @cached_property
    def network(self) -> Any:
        """The network that decodes every batch, with copies of the decoder's weights."""
        return prepared(self.model, self.params)

    @cached_property
    def stops(self) -> StopTable | None:
        strings = self.generation.stop_strings
        return stop_table(self.tokenizer, strings) if strings else None

    def _hypothesis(self, tokens: np.ndarray, score: float) -> Hypothesis:
        ends = np.flatnonzero(np.isin(tokens, self.generation.ends))
        ids = tokens[: ends[0] + 1 if len(ends) else len(tokens)].tolist()
        while self.generation.stop_strings and ids and ids[-1] == self.generation.pad_token:
            ids.pop()
        sentinels = not self._sentinels.isdisjoint(ids)  # keep them in the text: their positions are the answer
        return Hypothesis(self.tokenizer.decode(ids) if sentinels else self.tokenizer.text(ids), ids, score)

    def unfinished(self, tokens: Sequence[int]) -> bool:
        """Return whether an output ends at max_length: without an end, or the one that `forced_last` puts there."""
        settings = self.generation
        if len(tokens) < settings.max_length:
            return False
        if settings.stop_strings and any(stop in self.tokenizer.decode(tokens) for stop in settings.stop_strings):
            return False
        return settings.forced_last is not None or tokens[-1] not in settings.ends

    def note_unfinished(self, outputs: Iterable[Sequence[int]]) -> str:
        """Count the outputs that `unfinished` finds among the tokens of several, in a message; "" if there are none."""
        found = [self.unfinished(tokens) for tokens in outputs]
        limit = f"generation.max_length, {self.generation.max_length}"
        message = f"{sum(found):,} of {len(found):,} outputs are cut at {limit}: they have no end of their own"
        return message if any(found) else ""

    def cut_targets(self, targets: Sequence[str]) -> int:
        """Count the targets that `score_pairs` truncates."""
        most = self._within(self.target_length)
        framed = self.tokenizer.target(targets, self.languages[1])
        return 0 if most is None else sum(len(ids) > most for ids in framed)

    def _sources(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """Encode sources with control tokens after the model's prompt, truncated to a total of `limit` ids.

        Raises:
            ConfigError: a language is unknown, or the prompt leaves no room for a source.
        """
        room = None if limit is None else source_room(self.model.prompt, limit, "The length of sources")
        return [[*self.model.prompt, *ids] for ids in self.tokenizer.source(texts, self.languages[0], room)]

    @property
    def _longest(self) -> int | None:
        """The maximum number of tokens of a source."""
        return self.model.longest if self.input_length is None else self._within(self.input_length)

    def _within(self, length: int | None) -> int | None:
        """Limit a length to the number of the model's positions."""
        limit = self.model.longest
        return length if length is None or limit is None else min(length, limit)

    @cached_property
    def _sentinels(self) -> frozenset[int]:
        return frozenset(self.tokenizer.sentinel_ids.tolist())

    # --- Given targets ------------------------------------------------------------------------------------------------

    def score_pairs(
        self, pairs: Sequence[tuple[str, str]], skip: frozenset[int] = frozenset()
    ) -> Iterator[dict[int, list[float]]]:
        """Yield log-probabilities in nats of every target token of (source, target) pairs, with EOS and language codes.

        Sources and targets are truncated if a length is given for them.

        Raises:
            ConfigError: a source or a target without such a length exceeds the model's positions.
        """
        rows = self.framed_pairs(pairs)
        for numbers in self._batches(rows, skip):
            yield dict(zip(numbers, self._score([rows[number] for number in numbers]), strict=True))

    def logits(self, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[int, np.ndarray]]:
        """Yield the logits [t v] of every target token of (source, target) pairs, given those before it.

        Truncation and errors are as in `score_pairs`.
        """
        rows = self.framed_pairs(pairs)
        for numbers in self._batches(rows):
            batch = self.batch([rows[number] for number in numbers])
            logits = fetched(forward(self.model, self.params, self._placed(batch)))
            yield {number: logits[row, : len(rows[number][1])] for row, number in enumerate(numbers)}

    def framed_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[FramedPair]:
        """Encode both sides of each pair with control tokens, truncated if a length is given.

        Errors are as in `score_pairs`.
        """
        limit = self.model.longest
        sources = self._sources([source for source, _ in pairs], self._within(self.input_length))
        targets = self.tokenizer.target(
            [target for _, target in pairs], self.languages[1], self._within(self.target_length)
        )
        for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
            most = max(len(source), len(target))
            require(
                limit is None or most <= limit,
                f"Pair {number + 1} has {most} tokens, but the model has {limit} positions.",
            )
        return list(zip(sources, targets, strict=True))

    def batch(self, pairs: Sequence[FramedPair]) -> Batch:
        """Build a batch with one row for each framed pair, padded to `batch_size` rows and one of few widths."""
        sources, source_segments = self._padded([source for source, _ in pairs])
        targets, segments = self._padded([target for _, target in pairs])
        start = np.full((self.batch_size, 1), self.generation.start_token, np.int32)
        return Batch(
            encoder_input_tokens=sources,
            decoder_input_tokens=np.concatenate([start, targets[:, :-1]], axis=1),
            decoder_target_tokens=targets,
            decoder_loss_weights=segments.astype(np.float32),
            encoder_segment_ids=source_segments,
            decoder_segment_ids=segments,
        )

    def identity(self) -> list[Any]:
        """Return everything that determines a line's outputs, apart from the line."""
        texts = [repr(self.model), repr(self.generation), self.tokenizer.digest, self.languages]
        lengths = [self.input_length, self.target_length]
        return [*texts, *lengths, self.seed, self.scores, self.checksum]

    @cached_property
    def checksum(self) -> int:
        """A checksum of the parameters, independent of their sharding."""
        return int(checksum(self.params))

    def _batches(self, rows: Sequence[FramedPair], skip: frozenset[int] = frozenset()) -> Iterator[list[int]]:
        """Group row numbers into batches, longest sources first."""
        order = sorted({*range(len(rows))} - skip, key=lambda number: -len(rows[number][0]))
        return (order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size))

    def _score(self, pairs: list[FramedPair]) -> list[list[float]]:
        batch = self.batch(pairs)
        tokens = batch.encoder_input_tokens, batch.decoder_input_tokens, batch.decoder_target_tokens
        placed = self._placed((*tokens, batch.encoder_segment_ids, batch.decoder_segment_ids))
        scores = fetched(score(self.model, self.params, *placed))
        return [row[: len(target)].tolist() for row, (_, target) in zip(scores, pairs, strict=False)]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        return padded(rows, self.batch_size, self.tokenizer.pad_id, self.model.longest)

    def _placed(self, arrays: Any) -> Any:
        """Place the rows of a batch, a tree of arrays, on the mesh."""
        return arrays if self.mesh is None else place_rows(self.mesh, arrays)


def fetched(array: Any) -> np.ndarray:
    """Return the full array, gathered if other hosts hold parts of it."""
    scattered = isinstance(array, jax.Array) and not array.is_fully_addressable
    return np.asarray(multihost_utils.process_allgather(array, tiled=True) if scattered else array)


@jax.jit
def checksum(params: Params) -> UInt[Array, ""]:
    """Compute a checksum over every bit of the parameters, independent of their sharding."""
    bits = [jax.lax.bitcast_convert_type(leaf, jnp.uint32) for leaf in jax.tree.leaves(params)]
    return jnp.stack([jnp.sum(leaf) * (2 * index + 1) for index, leaf in enumerate(bits)]).sum()


def padded(rows: Sequence[Sequence[int]], count: int, pad: int, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pad rows to [count s] tokens and segment ids, s being one of few lengths; repeat the last row up to `count`."""
    longest, length = max(map(len, rows)), SHORTEST
    while length < longest:
        length *= 2
    length = length if limit is None else min(length, limit)
    tokens = np.full((count, length), pad, np.int32)
    segments = np.zeros((count, length), np.int32)
    for index in range(count):
        row = rows[min(index, len(rows) - 1)]
        tokens[index, : len(row)] = row
        segments[index, : len(row)] = 1
    return tokens, segments
