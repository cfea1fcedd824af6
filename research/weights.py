"""A trained model wherever it lies: recognised by its files, and opened with what belongs to it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from research import override
from research.checkpoint import verify
from research.config import (
    ConfigError,
    Experiment,
    Generation,
    Marian,
    Model,
    SentencePiece,
    TrainedSentencePiece,
    require,
)
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.model.transformer import Params, abstract_params
from research.pretrained import fairseq, huggingface, marian, t5x
from research.pretrained.tokenizer_files import read_tokenizer
from research.sharding import flatten, unflatten

KNOWN = (
    "a run directory or one of its checkpoints, a Hugging Face directory (config.json with model_type), a T5X"
    " checkpoint (a directory with a file named checkpoint), Marian's .npz, or fairseq's .pt"
)

# Fields that say how a model is trained and computed, not which numbers it holds.
FREE = (
    "dropout", "attention_dropout", "activation_dropout", "output_dropout", "initial", "compute", "remat", "unroll",
)  # fmt: skip
VOCABULARY = ("vocab_size", "source_vocab_size", "zero_token")  # another one may be wanted, its parameters fresh


class Weights(NamedTuple):
    """A model's configuration, and how to read what belongs to it.

    `params` takes `shardings` and `fresh`, as `fill_params` does. `tokenizer` raises ConfigError where the format holds
    none; `generation` is what it says of choosing tokens, or what a vocabulary and a target language imply.
    """

    format: str
    model: Model
    params: Callable[..., Params]
    tokenizer: Callable[[], Tokenizer]
    generation: Callable[[Tokenizer | None, str | None], Generation]


def find(path: Path) -> Weights:
    """The model at `path`, of which only the configuration and the names of its tensors are read yet.

    Raises:
        ConfigError: there is nothing of a known format, or it is damaged.
    """
    require(path.exists(), f"{path} does not exist: give {KNOWN}.")
    for recognise in (_run, _huggingface, _t5x, _marian, _fairseq):
        if found := recognise(path):
            return found
    raise ConfigError(f"{path} is none of the formats that are known here: {KNOWN}.")


def check_same_model(asked: Model, found: Model, path: Path, free: tuple[str, ...] = ()) -> None:
    """Raises ConfigError naming each field, but for those `free`, in which the model at `path` is not the one asked."""
    may = {*FREE, *free}
    changes = {name: pair for name, pair in override.diff(found, asked).items() if name.split(".")[0] not in may}
    said = "; ".join(f"model.{name} is {there!r} there and {here!r} here" for name, (there, here) in changes.items())
    require(not changes, f"{path} holds another model: {said}.")


def initial(experiment: Experiment, params: Params, shardings: Any = None) -> Params:
    """The parameters given, random ones, with those of `experiment.init` in their place, laid out alike.

    Raises:
        ConfigError: there is no such model, or it is another; a parameter is neither there nor `init_fresh`.
    """
    if experiment.init is None:
        return params
    read = flatten(find_initial(experiment, Path(experiment.init)).params(shardings, experiment.init_fresh))
    here = flatten(params)
    unlike = [path for path, leaf in read.items() if leaf.shape != here[path].shape]
    said = f"{experiment.init} has another vocabulary, so that {', '.join(unlike)} cannot be taken from it: name them"
    require(not unlike, f"{said} in init_fresh, or set model.vocab_size to its.")
    return unflatten({path: read.get(path, leaf) for path, leaf in here.items()})


def find_initial(experiment: Experiment, path: Path) -> Weights:
    """Raises ConfigError where what is at `path` is not the experiment's model."""
    found = find(path)
    check_same_model(experiment.model, found.model, path, VOCABULARY if experiment.init_fresh else ())
    return found


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """Raises ConfigError where the tokenizer has ids for which the model has no row."""
    source = model.vocab_size if model.source_vocab_size is None else model.source_vocab_size
    for side, size, rows in (("source", tokenizer.size, source), ("target", tokenizer.target_size, model.vocab_size)):
        # A zero token beyond the rows is an id of the vocabulary all the same.
        room = rows + (side == "target" and model.zero_token == rows)
        require(size <= room, f"The tokenizer has {size} {side} ids, but the model has rows for {room} only.")


# --- The formats ------------------------------------------------------------------------------------------------------


def _run(path: Path) -> Weights | None:
    directory, step = (path.parent.parent, path.name) if path.parent.name == "checkpoints" else (path, None)
    if not (directory / "checkpoints").is_dir() or not (directory / "config.json").is_file():
        return None
    experiment = override.from_json((directory / "config.json").read_text())
    model = experiment.model

    def params(shardings: Any = None, fresh: tuple[str, ...] = ()) -> Params:
        require(not fresh, f"{path} is a run: all of its parameters are taken, so that init_fresh must be empty.")
        return _restore(_checkpoint(directory, step), model, shardings)

    def tokenizer() -> Tokenizer:
        saved = directory / "tokenizer.model"
        match experiment.data.tokenizer:
            case TrainedSentencePiece(sentinels=sentinels):
                return open_tokenizer(SentencePiece(str(saved), sentinels))
            case Marian() as vocabulary:
                return open_tokenizer(dataclasses.replace(vocabulary, directory=str(saved)))
            case vocabulary if hasattr(vocabulary, "path"):
                return open_tokenizer(dataclasses.replace(vocabulary, path=str(saved)))
            case vocabulary:
                return open_tokenizer(vocabulary)

    return Weights("run", model, params, tokenizer, implied_generation(model))


def _checkpoint(directory: Path, step: str | None) -> Path:
    """The directory of a step, or of the newest that verifies."""
    steps = sorted(int(found.name) for found in (directory / "checkpoints").iterdir() if found.name.isdigit())
    require(bool(steps), f"{directory} has no checkpoint yet.")
    wrong = ""
    for number in reversed(steps) if step is None else [step]:
        found = directory / "checkpoints" / str(number)
        wrong = verify(found)
        if not wrong:
            return found
    raise ConfigError(f"{directory} has no checkpoint that verifies: {wrong}.")


def _restore(checkpoint: Path, model: Model, shardings: Any) -> Params:
    """The parameters alone; the optimizer's state is not read."""
    shapes = abstract_params(model)
    if shardings is None:
        kinds: Any = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    else:
        kinds = jax.tree.map(lambda leaf, where: ocp.ArrayRestoreArgs(sharding=where), shapes, shardings)
    restore = ocp.args.PyTreeRestore(item={"params": shapes}, restore_args={"params": kinds}, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore((checkpoint / "state").absolute(), args=restore)["params"]


def _huggingface(path: Path) -> Weights | None:
    config = path / "config.json"
    if not config.is_file() or "model_type" not in huggingface.read_json(config):
        return None
    model = huggingface.read_config(path)

    def generation(tokenizer: Tokenizer | None, language: str | None) -> Generation:
        if tokenizer is None:
            return huggingface.read_generation(path)
        said = implied_generation(model)(tokenizer, language)
        tongue = tokenizer.language_ids and language is not None
        read = huggingface.read_generation(path, **({"start_token": said.start_token} if tongue else {}))
        return read if said.forced_first is None else dataclasses.replace(read, forced_first=said.forced_first)

    return Weights(
        "Hugging Face",
        model,
        lambda shardings=None, fresh=(): huggingface.read_params(path, model, shardings, fresh),
        lambda: read_tokenizer(path),
        generation,
    )


def _t5x(path: Path) -> Weights | None:
    if not (path / "checkpoint").is_file():
        return None
    model = t5x.read_config(path)
    return Weights(
        "T5X",
        model,
        lambda shardings=None, fresh=(): t5x.read_params(path, model, shardings, fresh),
        lambda: _no_tokenizer(path, "T5X"),
        implied_generation(model),
    )


def _marian(path: Path) -> Weights | None:
    if path.suffix != ".npz":
        return None
    model = marian.read_config(path)
    return Weights(
        "Marian",
        model,
        lambda shardings=None, fresh=(): marian.read_params(path, model, shardings, fresh),
        lambda: read_tokenizer(path.parent),
        implied_generation(model, marian.read_generation(path)),
    )


def _fairseq(path: Path) -> Weights | None:
    if path.suffix != ".pt":
        return None
    model = fairseq.read_config(path)
    return Weights(
        "fairseq",
        model,
        lambda shardings=None, fresh=(): fairseq.read_params(path, model, shardings, fresh),
        lambda: _no_tokenizer(path, "fairseq"),
        implied_generation(model, Generation(start_token=2, eos_token=2, pad_token=1)),
    )


def _no_tokenizer(path: Path, format: str) -> Tokenizer:
    raise ConfigError(f"{path}: {format} keeps no tokenizer with its weights; give one with --tokenizer.")


def implied_generation(
    model: Model, default: Generation = Generation()
) -> Callable[[Tokenizer | None, str | None], Generation]:
    """What a vocabulary and the language to write say of choosing tokens; the default without a vocabulary."""

    def generation(tokenizer: Tokenizer | None, language: str | None) -> Generation:
        if tokenizer is None:
            return default
        start = tokenizer.start_id(language) if model.zero_token is None else model.zero_token
        forced = tokenizer.forced_first(language) if tokenizer.language_ids and language is not None else None
        return Generation(start, tokenizer.eos_id, tokenizer.pad_id, forced_first=forced)

    return generation


def open_tokenizer_at(path: Path) -> Tokenizer:
    """A Hugging Face directory's tokenizer, or a SentencePiece model of T5 with 100 sentinels."""
    if path.is_dir():
        return read_tokenizer(path)
    require(path.is_file(), f"{path} is no tokenizer: give a directory, or a SentencePiece model.")
    return open_tokenizer(SentencePiece(str(path)))
