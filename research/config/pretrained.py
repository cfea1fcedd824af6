"""A model that is taken from a directory: its architecture, weights, tokenizer, generation settings and prefixes."""

from dataclasses import MISSING, dataclass, fields, replace
from importlib import import_module
from typing import Any

from research.config.base import did_you_mean, require
from research.config.data import Denoising, Supervised
from research.config.generation import Generation, ModelGeneration
from research.config.model import Model
from research.config.tokenizer import Extended, ModelTokenizer, TokenizerConfig, TrainedSentencePiece, Vocabulary


@dataclass(frozen=True, init=False)
class Pretrained(Model):
    """The model at `path`, in any format that Kintsugi reads; a run starts from its weights.

    Fields that are not given are read from the directory: `Pretrained("t5-base", dropout=0.0)`. Nothing is read if all
    fields without a default, such as `width`, are given, as in a run's config.json.

    `new_tokens=("<sep>",)` adds tokens to a Hugging Face directory: they end the tokenizer, and their rows are the
    means of those of the pieces that spelled them.
    """

    path: str = ""
    tokenizer: Vocabulary | None = None  # read by data.tokenizer=ModelTokenizer()
    generation: Generation | None = None  # read by evaluation.generation=ModelGeneration()
    prefixes: tuple[tuple[str, str], ...] = ()  # (task, prefix), such as ("summarization", "summarize: ")
    new_tokens: tuple[str, ...] = ()  # the last ones of the tokenizer

    def __init__(self, path: str, **given: Any) -> None:
        own = {field.name: field for field in fields(Pretrained) if field.name != "path"}
        for name in given:
            require(name in own, f"Pretrained has no field {name}{did_you_mean(name, own) or '.'}")
        missing = own.keys() - given.keys()
        read = {}
        if any(own[name].default is MISSING for name in missing):
            read = import_module("research.pretrained.find").stored_fields(path, missing)
        self._set({name: field.default for name, field in own.items()} | read | given | {"path": path})
        if self.new_tokens and not ("tokenizer" in given and self._has_new_tokens):
            longer = import_module("research.pretrained.new_tokens").longer_fields
            self._set(longer(path, self.tokenizer, self.plain, self.new_tokens))
        self.__post_init__()

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def _has_new_tokens(self) -> bool:
        last = self.tokenizer.tokens[-len(self.new_tokens) :] if isinstance(self.tokenizer, Extended) else ()
        return last == self.new_tokens

    @property
    def plain(self) -> Model:
        return Model(**{field.name: getattr(self, field.name) for field in fields(Model)})


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
    message = f"data.tokenizer is a new vocabulary, for which {path} has no embedding: give ModelTokenizer()"
    same = own or not model.new_tokens or tokenizer == model.tokenizer
    require(same, "model.new_tokens belong to the tokenizer of the model: give data.tokenizer=ModelTokenizer().")
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
