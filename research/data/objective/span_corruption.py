"""T5's span corruption (arXiv:1910.10683, section 3.1.4), applied to a block of rows at once.

A raw row alternates kept and noise segments, kept first and noise last. The input shows the kept segments with a
sentinel for each noise span; the target shows the noise spans, each after its sentinel, which there replaces the kept
segment before the span. Both end in EOS, and no sentinel closes the target. All rows have the same counts, so nothing
is ragged and nothing is padded:

    raw      Thank you for inviting me to your party last week
    inputs   Thank you <X> me to your party <Y> EOS
    targets  <X> for inviting <Y> last week EOS
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt

from research.config import require
from research.config.objective import Lengths, Objective
from research.data.batch import Batch
from research.data.objective.rows import Array, require_density
from research.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class SpanCorruption(Objective):
    """Replace noise spans by sentinels; the target lists the hidden spans (arXiv:1910.10683, 3.1.4)."""

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        require_density(self.noise_density)
        span = self.mean_span_length
        require(span >= 1, f"objective.mean_span_length is {span}: it must be at least 1 token.")

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        """Find the longest raw row that fits `input_length` input tokens, as T5's random_spans_helper does.

        At a noise density of one half, T5 drops a raw token if the targets would otherwise be longer than the inputs;
        if that also removes a span, the inputs are one token shorter than `input_length`. For rows so short that the
        helper counts no span, T5's mask still makes one; it is counted here, so that nothing is cut off.
        """
        require(
            input_length >= 3,
            f"data.input_length is {input_length}: one kept token, a sentinel and EOS need at least 3.",
        )
        beyond = int((input_length + 2) / (1 - self.noise_density)) + 2
        # Inputs grow by 0 or 1 with each raw token, since mean_span_length is at least 1: no length is jumped over.
        raw = bisect_right(range(beyond), input_length, lo=2, key=lambda raw: self.counts(raw).inputs) - 1
        lengths = self.counts(raw)
        if self.noise_density == 0.5 and lengths.targets > lengths.inputs:
            lengths = self.counts(raw - 1)
        kept = lengths.raw - lengths.noise_tokens
        require(
            lengths.spans <= kept,
            f"data.objective puts {lengths.spans} noise spans a row but keeps {kept} tokens to separate them at"
            f" data.input_length {input_length}: lower noise_density ({self.noise_density}), or raise mean_span_length"
            f" ({self.mean_span_length}) to about {lengths.noise_tokens / kept:.1f} or more.",
        )
        return lengths

    def counts(self, raw: int) -> Lengths:
        """Compute the lengths of a row of `raw` >= 2 tokens, rounding half to even, as T5's random_spans_helper does.

        T5's random_spans_noise_mask then computes the same in float32, where a half may become more or less: of 190 raw
        tokens at a density of 0.15 it hides 29 in 10 spans, though the helper counted 28 in 9 and so made the targets
        too short for them. Here the mask has the helper's numbers, so that nothing is cut off.
        """
        noise_tokens = min(max(round(raw * self.noise_density), 1), raw - 1)
        spans = max(round(noise_tokens / self.mean_span_length), 1)
        inputs = raw - noise_tokens + spans + 1
        return Lengths(raw, inputs, noise_tokens + spans + 1, noise_tokens, spans)

    def check(self, lengths: Lengths, tokenizer: Tokenizer, language: str | None = None) -> None:
        """Refuse a vocabulary with fewer sentinels than a row has spans, or with other special tokens than T5's."""
        require(
            tokenizer.special_tokens(language) == ([], [tokenizer.eos_id]),
            "data.objective is SpanCorruption, which adds only EOS to a row: the tokenizer must do the same, as T5's.",
        )
        available = len(tokenizer.sentinel_ids)
        require(
            lengths.spans <= available,
            f"data.objective puts {lengths.spans} noise spans in a row of {lengths.raw} tokens but the tokenizer has"
            f" {available} sentinels: give it {lengths.spans}, lower noise_density or data.input_length, or raise"
            " mean_span_length.",
        )

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        """Corrupt rows of exactly `lengths.raw` tokens, without EOS, into full rows of inputs and targets.

        Raises ConfigError like `check`, and TypeError if the dtype of the tokens cannot hold every id.
        """
        self.check(lengths, tokenizer)
        if tokenizer.size - 1 > np.iinfo(tokens.dtype).max:
            raise TypeError(f"{tokens.dtype} tokens cannot hold the sentinels of a vocabulary of {tokenizer.size} ids.")
        sentinels = tokenizer.sentinel_ids[: lengths.spans]
        starts, is_noise = random_spans(len(tokens), lengths, rng)
        inputs = hide(tokens, is_noise, starts[:, 1::2], sentinels, tokenizer.eos_id)
        targets = hide(tokens, ~is_noise, starts[:, 0::2], sentinels, tokenizer.eos_id)
        shifted = np.full_like(targets, tokenizer.pad_id)
        shifted[:, 1:] = targets[:, :-1]
        return Batch(encoder_input_tokens=inputs, decoder_input_tokens=shifted, decoder_target_tokens=targets)


def random_spans(
    rows: int, lengths: Lengths, rng: np.random.Generator
) -> tuple[Int[Array, "n segments"], Bool[Array, "n raw"]]:
    """Draw the starts of segments and a noise mask.

    Segments alternate kept, noise, kept, ...; their starts are indices into the flattened block.
    """
    kept_tokens = lengths.raw - lengths.noise_tokens
    totals = np.repeat([kept_tokens, lengths.noise_tokens], rows)
    kept, noise = np.split(random_compositions(totals, lengths.spans, rng), 2)
    segments = np.stack([kept, noise], axis=-1).reshape(-1)
    starts = np.cumsum(segments) - segments
    is_noise = np.repeat(np.tile([False, True], rows * lengths.spans), segments)
    return starts.reshape(rows, -1), is_noise.reshape(rows, lengths.raw)


def random_compositions(totals: Int[Array, " m"], parts: int, rng: np.random.Generator) -> Int[Array, "m parts"]:
    """Write each total as an ordered sum of `parts` positive integers, all such sums being equally likely.

    A composition is a choice of `parts - 1` of the `total - 1` gaps between items. R. Floyd's algorithm chooses them
    (Bentley, "Programming Pearls: a sample of brilliance", CACM 30:9, 1987), for all rows in parallel: draw one of the
    gaps up to `last`, which grows to the last of all; if the drawn gap is already taken, take `last`.
    """
    gaps = totals - 1
    offsets = np.cumsum(gaps) - gaps
    taken = np.zeros(gaps.sum(), bool)
    last = gaps - np.arange(parts - 1, 0, -1)[:, None]  # [steps m], at the last step the last gap
    drawn = (rng.random(last.shape) * (last + 1)).astype(np.intp)
    for gap, fallback in zip(drawn + offsets, last + offsets, strict=True):
        taken[np.where(taken[gap], fallback, gap)] = True
    ends = np.flatnonzero(taken).reshape(len(totals), parts - 1) - offsets[:, None] + 1
    return np.diff(ends, axis=1, prepend=0, append=totals[:, None])


def hide(
    tokens: UInt[Array, "n raw"],
    hidden: Bool[Array, "n raw"],
    starts: Int[Array, "n spans"],
    sentinels: UInt[Array, " spans"],
    eos_id: int,
) -> Int[Array, "n shown"]:
    """Replace each hidden segment by one sentinel at its start, and append EOS to each row. The result is int32."""
    text, shown = tokens.copy(), ~hidden
    text.reshape(-1)[starts] = sentinels
    shown.reshape(-1)[starts] = True
    rows = text[shown].reshape(len(tokens), -1)
    ended = np.full((len(rows), rows.shape[1] + 1), eos_id, np.int32)
    ended[:, :-1] = rows
    return ended
