"""A trained model for use from Python: text in; text, logits, scores and attention weights out.

model = load("runs/quickstart")
model.generate(["The <extra_id_0> of a list."], max_length=40)
model.logits(sources, targets)                  # [b t v]
model.score(sources, targets)                   # negative log-likelihood and tokens of each target
model.attention(source, target, layer=0)        # [h t s]
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from research.config import Generation, Mesh, Model, override, require
from research.data.batch import Batch
from research.data.tokenizer import Tokenizer
from research.decode.generate import Generator, Hypothesis
from research.decode.prepare import prepared
from research.model import quantized, transformer
from research.model.attention_maps import AttentionPart, attention_map
from research.model.parameters import param_specs, table_of
from research.model.parametrization import as_standard, standard_model
from research.model.transformer import Params
from research.parallel.mesh import make_mesh
from research.parallel.padding import fill, placed
from research.parallel.rules import merge, shardings
from research.pretrained import find, huggingface, peft
from research.pretrained.rows import check_vocabulary
from research.pretrained.table import check_shapes
from research.pretrained.weights import Weights, read
from research.storage.bucket import any_path

Array = np.ndarray
Languages = tuple[str | None, str | None]  # source and target


class TargetScores(NamedTuple):
    """For each target, -log p(target) in nats and the number of its tokens, control tokens included."""

    nll: Float[Array, " b"]
    tokens: Int[Array, " b"]


def load(
    path: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    compute: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh = Mesh(),
) -> "LoadedModel":
    """Load a trained model with its tokenizer.

    Args:
        path: a run directory or one of its checkpoints (`RUN/checkpoints/STEP` or `/best`), a Hugging Face directory,
            a T5X checkpoint, Marian's .npz, or fairseq's .pt.
        tokenizer: a directory or SentencePiece model, for formats that store none (T5X and fairseq).
        adapter: a directory in PEFT's format, with an adapter of the model.
        batch_size: rows computed at once, rounded up to a multiple of the devices that share a batch.
        compute: dtype of the activations.
        mesh: devices along each axis; all of them share the batch by default.

    Raises:
        ConfigError: there is no model, it is damaged, or it does not fit the tokenizer or the devices.
    """
    model = open_model(path, tokenizer=tokenizer, adapter=adapter, batch_size=batch_size, compute=compute, mesh=mesh)
    model.params  # noqa: B018 (read now, so that a damaged file raises here)
    return model


def open_model(
    path: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    compute: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh = Mesh(),
) -> "LoadedModel":
    """Open a model as `load` does, but read its parameters only when they are first used."""
    require(batch_size > 0, f"batch_size is {batch_size}: it must be above 0.")
    weights = find.find(any_path(str(path)))
    if adapter is not None:
        weights = find.with_adapter(weights, any_path(str(path)), Path(adapter))
    opened = weights.tokenizer() if tokenizer is None else find.open_tokenizer_at(Path(tokenizer))
    check_vocabulary(weights.model, opened)
    config = override.apply(weights.model, {"compute": compute})
    return LoadedModel(weights, config, opened, make_mesh(mesh), batch_size)


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with its tokenizer, on a mesh of devices; returned by `load`."""

    weights: Weights
    config: Model
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    batch_size: int = 32

    @cached_property
    def params(self) -> Params:
        """The parameters: nested dicts of arrays. A vocabulary that the mesh does not divide ends in rows of zeros."""
        return jax.block_until_ready(read(self.weights, self.config, self.mesh))

    @cached_property
    def network(self) -> Any:
        """The network that `generate` uses: it has copies of the decoder's weights, made by the first call."""
        return prepared(self.config, self.params)

    @property
    def _shardings(self) -> Any:
        return shardings(self.mesh, transformer.specs_of(self.config))

    def with_params(self, params: Params) -> "LoadedModel":
        """Return a copy of the model with other parameters of the same names and shapes.

        Raises:
            ConfigError: the names or shapes differ.
        """
        whole = placed(transformer.abstract_params(self.config), self._shardings)
        shapes = jax.eval_shape(quantized.whole, params)
        if jax.tree.map(np.shape, shapes) != jax.tree.map(np.shape, whole):
            check_shapes(shapes, self.config)
            params = fill(params, whole)
        given = jax.device_put(params, shardings(self.mesh, param_specs(params, table_of(self.config))))
        return replace(self, weights=self.weights._replace(params=lambda shardings=None, fresh=(): given))

    def with_adapter(self, directory: str | os.PathLike[str]) -> "LoadedModel":
        """Return a copy of the model with an adapter in PEFT's format. Copies share the arrays of the model.

        Raises:
            ConfigError: the directory holds no adapter, or that of another model, or the model has one already.
        """
        require(self.config.adapter is None, "The model has an adapter already: load its base.")
        stored = peft.find(Path(directory), self.config)
        adapted = replace(self, config=replace(self.config, adapter=stored.adapter))
        return adapted.with_params(merge(self.params, peft.read_params(stored, adapted.config)))

    @property
    def rows_at_once(self) -> int:
        """`batch_size`, rounded up to a multiple of the devices that share a batch."""
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-self.batch_size // parts) * parts

    # --- Text ---------------------------------------------------------------------------------------------------------

    def generate(
        self,
        texts: Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        seed: int = 0,
        **fields: Any,
    ) -> list[str]:
        """Write the best output for each text; an empty text has an empty output.

        `fields` are those of `Generation`, such as `max_length=200` or `method=Beam(4)`; the others come from the
        model's files. `seed` is for `method=Sampling()`.

        Raises:
            ConfigError: a field or a language is unknown, or has a value that is not allowed.
        """
        hypotheses = self._write(texts, (source_language, target_language), seed, fields, scores=False)
        return [best.text for best, *_ in hypotheses]

    def hypotheses(
        self,
        texts: Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        seed: int = 0,
        **fields: Any,
    ) -> list[list[Hypothesis]]:
        """Write `outputs` hypotheses for each text, best first, with tokens and scores. Arguments as in `generate`."""
        return self._write(texts, (source_language, target_language), seed, fields, scores=True)

    def _write(
        self, texts: Sequence[str], languages: Languages, seed: int, fields: dict[str, Any], scores: bool
    ) -> list[list[Hypothesis]]:
        check_texts("texts", texts)
        require(0 <= seed < 2**32, f"seed is {seed}: it must lie in [0, 2**32).")
        generation = self.generation(languages[1], {name: override.as_text(value) for name, value in fields.items()})
        generator = self._for(len(texts)).generator(generation, languages, seed=seed, scores=scores)
        generator.__dict__["network"] = self.network  # fill the cached_property: other calls use it too
        framed, notes = generator.prepare(texts)
        if str(notes):
            warnings.warn(str(notes), stacklevel=3)
        hypotheses = {number: each for outputs in generator.run(framed) for number, each in outputs.items()}
        if cut := generator.note_unfinished(one.tokens for each in hypotheses.values() for one in each):
            warnings.warn(cut, stacklevel=3)
        return [hypotheses[number] for number in range(len(texts))]

    def generation(
        self, target_language: str | None, overrides: dict[str, str], default: Generation | None = None
    ) -> Generation:
        """Return the generation settings: `default` or those of the model's files, with command-line style overrides.

        Raises:
            ConfigError: an override is invalid, or `max_length` exceeds the model's positions.
        """
        chosen = self.weights.generation(self.tokenizer, target_language) if default is None else default
        generation, limit = override.apply(chosen, overrides), self.config.longest
        if limit is not None and generation.max_length > limit and "max_length" not in overrides:
            generation = replace(generation, max_length=limit)
        most = generation.max_length
        require(limit is None or most <= limit, f"generation.max_length is {most}: the model has {limit} positions.")
        return generation

    def generator(self, generation: Generation, languages: Languages, **settings: Any) -> Generator:
        """Create a `Generator` for this model; `settings` are further fields of it."""
        settings |= {"batch_size": self.rows_at_once, "mesh": self.mesh}
        return Generator(self.config, self.params, self.tokenizer, generation, languages, **settings)

    # --- Given targets ------------------------------------------------------------------------------------------------

    def logits(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Float[Array, "b t v"]:
        """Compute the logits of every target token given the source and the tokens before it, in float32.

        Position t of row b predicts `batch(sources, targets).decoder_target_tokens[b, t]`. After a target's end: zeros.
        """
        generator, pairs = self._given(sources, targets, (source_language, target_language))
        longest = max((len(target) for _, target in generator.framed_pairs(pairs)), default=0)
        logits = np.zeros((len(pairs), longest, self.config.vocab_size), np.float32)
        for batch in generator.logits(pairs):
            for number, rows in batch.items():
                logits[number, : len(rows)] = rows
        return logits

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> TargetScores:
        """Compute the negative log-likelihood of each target given its source, in nats, and count its tokens."""
        generator, pairs = self._given(sources, targets, (source_language, target_language))
        by_number = {number: each for scores in generator.score_pairs(pairs) for number, each in scores.items()}
        scores = [by_number[number] for number in range(len(pairs))]
        return TargetScores(
            np.array([-sum(each) for each in scores], np.float32), np.array([len(each) for each in scores], np.int32)
        )

    def attention(
        self,
        source: str,
        target: str = "",
        *,
        layer: int,
        part: AttentionPart = "cross",
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Float[Array, "h t s"]:
        """Compute the attention weights of one layer, from each query position t to the key positions s.

        `part` is "encoder" (source to source), "decoder" (target to target) or "cross" (target to source). Positions
        index the tokens of `batch([source], [target])`: `encoder_input_tokens` and `decoder_input_tokens`.

        Raises:
            ConfigError: the model has no such layer or part.
        """
        batch = self.batch([source], [target], source_language=source_language, target_language=target_language)
        whole = batch._replace(decoder_loss_weights=None, encoder_segment_ids=None, decoder_segment_ids=None)
        return np.asarray(attention_map(self.config, self.params, whole, part, layer)[0])

    def batch(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Batch:
        """Tokenize sources and targets to a batch for the model, padded to the longest, with segment ids."""
        generator, pairs = self._given(sources, targets, (source_language, target_language))
        framed = generator.framed_pairs(pairs)
        padded = replace(generator, batch_size=len(framed)).batch(framed)
        inputs, outputs = (max(map(len, side)) for side in zip(*framed, strict=True))

        def cut(name: str) -> Any:
            rows = getattr(padded, name)
            return None if rows is None else rows[:, : outputs if name.startswith("decoder") else inputs]

        return Batch(**{name: cut(name) for name in Batch._fields})

    # --- Files --------------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str], target_language: str | None = None) -> None:
        """Write a new Hugging Face directory with weights, tokenizer and generation settings, which `load` reads too.

        An adapter is merged into the weights, except a prompt, which is refused.

        Raises:
            ConfigError: the directory exists and is not empty, or the format cannot represent this model.
        """
        generation = self.weights.generation(self.tokenizer, target_language)
        params = transformer.own_rows(self.config, self.params)
        config, params = transformer.merged(self.config, params)
        standard, params = standard_model(config), as_standard(config, params)
        huggingface.write_directory(Path(directory), standard, params, self.tokenizer, generation)

    def _for(self, rows: int) -> "LoadedModel":
        """Return the model with its batch size limited to the next power of two of `rows`."""
        smaller = replace(self, batch_size=min(self.batch_size, 1 << max(rows - 1, 0).bit_length()))
        smaller.__dict__["params"] = self.params  # fill the cached_property: they are already on the mesh
        return smaller

    def _given(
        self, sources: Sequence[str], targets: Sequence[str], languages: Languages
    ) -> tuple[Generator, list[tuple[str, str]]]:
        """Check the texts; return a generator for given targets, and the (source, target) pairs."""
        check_texts("sources", sources)
        check_texts("targets", targets)
        require(
            len(sources) == len(targets) > 0,
            f"There are {len(sources)} sources and {len(targets)} targets: give equal numbers, at least one.",
        )
        generator = self._for(len(sources)).generator(self.generation(languages[1], {}), languages)
        return generator, list(zip(sources, targets, strict=True))


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Raise ConfigError unless `texts` is a list of strings; a single string would be split into characters."""
    kinds = {type(text).__name__ for text in texts} - {"str"}
    require(not isinstance(texts, str) and not kinds, f"{name} must be a list of strings, such as ['A line of text.'].")
