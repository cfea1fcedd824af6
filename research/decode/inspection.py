"""A model's view of one example: its attention weights, and the probabilities of each next token."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from research.config import DecoderOnly, require
from research.data.batch import Batch
from research.data.tokenizer import MarianTokenizer, Tokenizer
from research.decode.generate import fetched
from research.decode.loaded_model import LoadedModel
from research.decode.search import forward
from research.model.attention_maps import AttentionPart, attention_maps
from research.pretrained.tokenizer_files import own_tokens

Array = np.ndarray
TOKENS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")


class Token(NamedTuple):
    """A token as a reader sees it."""

    text: str
    kind: Literal["text", "sentinel", "special"]


class Prediction(NamedTuple):
    """The distribution of one target token: its own log-probability in nats, its rank from 1, and the best tokens."""

    log_probability: float
    rank: int
    best: list[tuple[Token, float]]  # with their probabilities


class Inspection(NamedTuple):
    """One example as a model reads and predicts it, without padding.

    `attention[part]` is [layers, heads, queries, keys]: from inputs to inputs, from decoder inputs to decoder inputs,
    and from decoder inputs to inputs; in a decoder-only model from decoder inputs to inputs and decoder inputs.
    """

    inputs: list[Token]
    decoder_inputs: list[Token]
    targets: list[Token]
    predictions: list[Prediction]
    attention: dict[AttentionPart, Float[Array, "l h t s"]]

    def tokens(self, part: AttentionPart) -> tuple[list[Token], list[Token]]:
        """Return the queries and the keys of a part's attention."""
        queries = self.inputs if part == "encoder" else self.decoder_inputs
        if part == "decoder":
            whole = self.attention[part].shape[-1] > len(queries)
            return queries, self.inputs + queries if whole else queries
        return queries, self.inputs


class TokenNames:
    """The tokens of one side by id: text with marks for spaces and ends of lines, and special tokens by name.

    Bytes that are no text of their own are shown by their numbers, and ids without a name by theirs.
    """

    def __init__(self, tokenizer: Tokenizer, target: bool) -> None:
        self._tokenizer = tokenizer
        texts = tokenizer.target_bytes if target and isinstance(tokenizer, MarianTokenizer) else tokenizer.token_bytes
        self._texts: Sequence[bytes] = texts
        controls = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unknown_id)
        own = isinstance(tokenizer, MarianTokenizer) and tokenizer.separate and target  # without the source's languages
        self._names = {id: name for name, id in reversed(own_tokens(tokenizer).items()) if not own or id in controls}
        self._sentinels = {*tokenizer.sentinel_ids.tolist(), tokenizer.mask_id}

    def __call__(self, id: int) -> Token:
        if id in self._sentinels:
            return Token(self._tokenizer.decode([id]).strip(), "sentinel")
        if id in self._names:
            return Token(self._names[id], "special")
        surface = bytes(self._texts[id]) if id < len(self._texts) else b""
        return Token(printable(surface), "text") if surface else Token(f"<{id}>", "special")


def printable(surface: bytes) -> str:
    """Show the bytes of a token: with marks for white space, and by their numbers if they are part of a character."""
    try:
        text = surface.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in surface)
    marked = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return "".join(each if each.isprintable() else f"<U+{ord(each):04X}>" for each in marked)


def inspect(model: LoadedModel, batch: Batch, alternatives: int = 5) -> Inspection:
    """Compute the attention weights and predictions of a batch of one row without padding.

    Raises:
        ConfigError: `alternatives` is not from 1 to the size of the vocabulary.
    """
    size = model.config.vocab_size
    require(1 <= alternatives <= size, f"The number of alternatives is {alternatives}: it must be from 1 to {size}.")
    parts: tuple[AttentionPart, ...] = ("encoder", "decoder", "cross")
    if isinstance(model.config.stacks, DecoderOnly):
        parts = parts[:2]
    attention = {
        part: np.stack([fetched(layer)[0] for layer in attention_maps(model.config, model.params, batch, part)])
        for part in parts
    }
    logits = fetched(forward(model.config, model.params, batch))[0]
    source, target = (TokenNames(model.tokenizer, target=is_target) for is_target in (False, True))
    return Inspection(
        [source(id) for id in batch.encoder_input_tokens[0].tolist()],
        [target(id) for id in batch.decoder_input_tokens[0].tolist()],
        [target(id) for id in batch.decoder_target_tokens[0].tolist()],
        predictions(logits, batch.decoder_target_tokens[0], target, alternatives),
        attention,
    )


def predictions(
    logits: Float[Array, "t v"], targets: Int[Array, " t"], names: TokenNames, alternatives: int
) -> list[Prediction]:
    """Compute the softmax of each position's logits, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    found = []
    for row, target in zip(log_probabilities, targets, strict=True):
        best = np.argsort(-row, kind="stable")[:alternatives]
        shown = [(names(int(id)), float(np.exp(row[id]))) for id in best]
        found.append(Prediction(float(row[target]), 1 + int((row > row[target]).sum()), shown))
    return found


def one_row(batch: Batch, number: int) -> Batch:
    """Return a row of a batch as a batch of its own, without padding.

    Raises:
        ConfigError: the row holds several examples.
    """
    row = jax.tree.map(lambda rows: np.asarray(rows)[number : number + 1], batch)
    kept: dict[str, Array] = {}
    for side in ("encoder", "decoder"):
        segments = getattr(row, f"{side}_segment_ids")
        length = getattr(row, f"{side}_input_tokens").shape[1]
        if segments is not None:
            require(bool(segments.max() <= 1), "This row packs several examples: one at a time can be looked at.")
            length = int((segments > 0).sum())
        kept |= {name: getattr(row, name)[:, :length] for name in TOKENS if name.startswith(side)}
    return Batch(**kept)
