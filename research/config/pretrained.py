"""A model that is taken from a directory: its architecture, weights, tokenizer, generation settings and prefixes."""

from dataclasses import MISSING, dataclass, fields, replace
from importlib import import_module
from itertools import pairwise
from typing import Any

from research.config.base import did_you_mean, require
from research.config.data import Denoising, Supervised
from research.config.generation import Generation, ModelGeneration
from research.config.model import Model, SeparateStacks
from research.config.tokenizer import Extended, ModelTokenizer, TokenizerConfig, TrainedSentencePiece, Vocabulary

STACKS = ("encoder", "decoder")


@dataclass(frozen=True, init=False)
class Pretrained(Model):
    """The model at `path`, in any format that Kintsugi reads; a run starts from its weights.

    Fields that are not given are read from the directory: `Pretrained("t5-base", dropout=0.0)`. Nothing is read if all
    fields without a default, such as `width`, are given, as in a run's config.json.

    `new_tokens=("<sep>",)` adds tokens to a Hugging Face directory: they end the tokenizer, and their rows are the
    means of those of the pieces that spelled them.

    With `encoder_kept` or `decoder_kept` the model has only these layers of a stack, and `encoder_layers` or
    `decoder_layers` is their number: `Pretrained("bart-large", decoder_kept=(0, 6, 11))` (arXiv:2010.13002).
    """

    path: str = ""
    tokenizer: Vocabulary | None = None  # read by data.tokenizer=ModelTokenizer()
    generation: Generation | None = None  # read by evaluation.generation=ModelGeneration()
    prefixes: tuple[tuple[str, str], ...] = ()  # (task, prefix), such as ("summarization", "summarize: ")
    new_tokens: tuple[str, ...] = ()  # the last ones of the tokenizer
    encoder_kept: tuple[int, ...] | None = None  # layers of the encoder at `path`, counted from 0; None: all
    decoder_kept: tuple[int, ...] | None = None

    def __init__(self, path: str, **given: Any) -> None:
        own = {field.name: field for field in fields(Pretrained) if field.name != "path"}
        for name in given:
            require(name in own, f"Pretrained has no field {name}{did_you_mean(name, own) or '.'}")
        missing = own.keys() - given.keys()
        read = {}
        if any(own[name].default is MISSING for name in missing):
            read = import_module("research.pretrained.find").stored_fields(path, missing)
        values: dict[str, Any] = {name: field.default for name, field in own.items()} | read | given | {"path": path}
        for stack in STACKS:
            kept, name = values[f"{stack}_kept"], f"{stack}_layers"
            check_kept(path, stack, kept, read.get(name))
            values |= {} if kept is None else {name: len(kept)}
        self._set(values)
        if self.new_tokens and not ("tokenizer" in given and self._has_new_tokens):
            longer = import_module("research.pretrained.new_tokens").longer_fields
            self._set(longer(path, self.tokenizer, self.plain, self.new_tokens))
        self.__post_init__()
        message = f"model.stacks has one set of layers: encoder_kept is {self.encoder_kept}, not {self.decoder_kept}."
        require(isinstance(self.stacks, SeparateStacks) or self.encoder_kept == self.decoder_kept, message)

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def _has_new_tokens(self) -> bool:
        last = self.tokenizer.tokens[-len(self.new_tokens) :] if isinstance(self.tokenizer, Extended) else ()
        return last == self.new_tokens

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """The layers that are kept, by stack; without stacks of which all are kept."""
        stacks = {"encoder": self.encoder_kept, "decoder": self.decoder_kept}
        return {stack: kept for stack, kept in stacks.items() if kept is not None}

    @property
    def plain(self) -> Model:
        return Model(**{field.name: getattr(self, field.name) for field in fields(Model)})


def check_kept(path: str, stack: str, kept: tuple[int, ...] | None, layers: int | None = None) -> None:
    """Raise ConfigError unless the layers that are kept are some of a stack's `layers` layers, in ascending order."""
    if kept is None:
        return
    ascending = len(kept) > 0 and kept[0] >= 0 and all(one < other for one, other in pairwise(kept))
    message = f"{stack}_kept is {kept}: it must have numbers of layers from 0 on, in ascending order."
    require(ascending, message)
    message = f"{stack}_kept is {kept}, but the {stack} of {path} has the layers 0 to {(layers or 0) - 1}."
    require(layers is None or kept[-1] < layers, message)


def check_stored(
    model: Model,
    init: str | None,
    tokenizer: TokenizerConfig,
    generation: Generation | ModelGeneration | None,
    fresh: bool,
) -> None:
    """Raise ConfigError if an experiment takes what is not stored with its model, or contradicts what is.

    `fresh` tells whether some parameters are initialised randomly.
    """
    if not isinstance(model, Pretrained):
        for name, value in {"data.tokenizer": tokenizer, "evaluation.generation": generation}.items():
            taken = isinstance(value, ModelTokenizer | ModelGeneration)
            require(not taken, f"{name} is {type(value).__name__}(): it needs model=Pretrained(...), which has one.")
        return
    path, own = model.path, isinstance(tokenizer, ModelTokenizer)
    message = f"init is {init!r}, but the model's weights are those of {path}: give one of them, model=Pretrained(...)."
    require(init is None or init == path, message)
    ways = "data.tokenizer='SentencePiece(\"FILE\")' or another vocabulary"
    require(not own or model.tokenizer is not None, f"{path} holds no tokenizer: give its own, {ways}.")
    same = own or not model.new_tokens or tokenizer == model.tokenizer
    require(same, "model.new_tokens belong to the tokenizer of the model: give data.tokenizer=ModelTokenizer().")
    message = f"data.tokenizer is a new vocabulary, for which {path} has no embedding: give ModelTokenizer()"
    known = fresh or not isinstance(tokenizer, TrainedSentencePiece)
    require(known, f"{message}, or name embedding and head in init_fresh.")
    if isinstance(generation, ModelGeneration) and model.generation is not None and model.generation.names_ids:
        message = f"evaluation.generation is ModelGeneration(), with token ids of the tokenizer of {path}"
        require(own or tokenizer == model.tokenizer, f"{message}: with another tokenizer, give Generation(...).")


def filled(data: Denoising | Supervised, model: Model) -> Denoising | Supervised:
    """Return the data with the tokenizer and the prefixes that are stored with the model."""
    vocabulary, prefixes = (model.tokenizer, model.prefixes) if isinstance(model, Pretrained) else (None, ())
    if isinstance(data.tokenizer, ModelTokenizer):
        tokenizer = ModelTokenizer()
        object.__setattr__(tokenizer, "vocabulary", vocabulary)
        data = replace(data, tokenizer=tokenizer)
    if isinstance(data, Supervised):
        data = replace(data, tasks=tuple(task.with_prefixes(dict(prefixes)) for task in data.tasks))
    return data
