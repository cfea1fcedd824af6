"""A trained model wherever it lies: recognised by its files, and opened with what belongs to it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from research.config import (
    TRAINING_ONLY,
    Bytes,
    ConfigError,
    Experiment,
    Generation,
    Marian,
    Model,
    SentencePiece,
    TrainedSentencePiece,
    Vocabulary,
    override,
    require,
)
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.model.transformer import Params, abstract_params
from research.parallel.rules import flatten, unflatten
from research.pretrained import fairseq, huggingface, marian, t5x
from research.pretrained.table import fresh_paths
from research.pretrained.tokenizer_files import read_tokenizer
from research.storage import run_directory
from research.storage.bucket import AnyPath, any_path, check_reachable, is_remote, local_file
from research.storage.checkpoint import absolute, best_step, steps_on_disk, verify

KNOWN = (
    "a run directory or one of its checkpoints, a Hugging Face directory (config.json with model_type), a T5X"
    " checkpoint (a directory with a file named checkpoint), Marian's .npz, or fairseq's .pt"
)

BEST = "best"  # stands for the step of the best evaluation

ROWS = ("vocab_size", "source_vocab_size")  # other numbers may be wanted, the parameters that have them fresh ...
VOCABULARY = (*ROWS, "zero_token")  # ... and then another token to be zero


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
    stored_as: str = "params"  # of a run: which of its state's parameters these are


def find(path: AnyPath) -> Weights:
    """The model at `path`, of which only the configuration and the names of its tensors are read yet.

    Raises:
        ConfigError: there is nothing of a known format, or it is damaged.
    """
    check_reachable(path)
    named = path.name == BEST and path.parent.name == "checkpoints"
    require(path.exists() or named, f"{path} does not exist: give {KNOWN}.")
    for recognise in (_run, _huggingface, _t5x, _marian, _fairseq):
        try:
            found = recognise(path)
        except ConfigError as error:  # a field's own check does not know where its value comes from
            raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from error
        require(
            found is not None or not is_remote(path),
            f"{path} is no run directory: of a bucket only those are read, so copy others here.",
        )
        if found:
            return found
    raise ConfigError(f"{path} is none of the formats that are known here: {KNOWN}.")


def check_same_model(asked: Model, found: Model, path: AnyPath, free: tuple[str, ...] = ()) -> None:
    """Raises ConfigError naming each field, but for those `free`, in which the model at `path` is not the one asked."""
    may = {*TRAINING_ONLY, *free}
    changes = {name: pair for name, pair in override.diff(found, asked).items() if name.split(".")[0] not in may}
    said = "; ".join(f"model.{name} is {there!r} there and {here!r} here" for name, (there, here) in changes.items())
    require(not changes, f"{path} holds another model: {said}.")


def find_initial(experiment: Experiment, init: str) -> Weights:
    """The weights at `init`, of which none is read yet.

    Raises:
        ConfigError: there are none, or of another model; a parameter of another shape is not `init_fresh`; or an
            expression of that matches nothing.
    """
    path = any_path(init)
    found = find(path)
    check_same_model(experiment.model, found.model, path, VOCABULARY if experiment.init_fresh else ROWS)
    there, here = (flatten(abstract_params(model)) for model in (found.model, experiment.model))
    taken = there.keys() - fresh_paths(there, experiment.init_fresh)
    unlike = sorted(path for path in taken if path not in here or there[path].shape != here[path].shape)
    said = (
        f"{init} has another vocabulary, so that {', '.join(unlike)} cannot be taken from it: name them in init_fresh"
    )
    require(not unlike, f"{said}, or set model.vocab_size to {found.model.vocab_size}.")
    return found


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """Raises ConfigError where the tokenizer has ids for which the model has no row."""
    source = model.vocab_size if model.source_vocab_size is None else model.source_vocab_size
    for side, size, rows in (("source", tokenizer.size, source), ("target", tokenizer.target_size, model.vocab_size)):
        room = rows + (model.zero_token == rows)  # beyond the rows it is an id of the vocabulary all the same
        require(size <= room, f"The tokenizer has {size} {side} ids, but the model has rows for {room} only.")


# --- The formats ------------------------------------------------------------------------------------------------------


def run_of(path: AnyPath) -> AnyPath | None:
    """The run directory that `path` is, or is a checkpoint of."""
    directory = path.parent.parent if path.parent.name == "checkpoints" else path
    return directory if (directory / "checkpoints").is_dir() and (directory / "config.json").is_file() else None


def checkpoint_of(path: AnyPath) -> AnyPath:
    """The checkpoint that `path` is, checkpoints/best by evaluation.best or, of a run, the newest. Raises ConfigError.

    Of the newest ones, that is the first that verifies.
    """
    return _checkpoint(path.parent.parent, path.name) if path.parent.name == "checkpoints" else _checkpoint(path, None)


def _run(path: AnyPath) -> Weights | None:
    directory = run_of(path)
    if directory is None:
        return None
    experiment = run_directory.read_config(directory)
    model, kind = experiment.model, "params" if experiment.average_decay is None else "average"

    def params(shardings: Any = None, fresh: tuple[str, ...] = ()) -> Params:
        return _restore(checkpoint_of(path), kind, model, shardings, fresh)

    def tokenizer() -> Tokenizer:
        return open_tokenizer(saved_vocabulary(directory, experiment.data.tokenizer))

    return Weights("run", model, params, tokenizer, implied_generation(model), kind)


def saved_vocabulary(directory: AnyPath, tokenizer: Vocabulary | TrainedSentencePiece) -> Vocabulary:
    """The vocabulary of a run as its directory keeps it."""
    saved = directory / "tokenizer.model"
    saved = local_file(saved) if is_remote(saved) and saved.exists() else saved
    match tokenizer:
        case TrainedSentencePiece(sentinels=sentinels, languages=languages):
            return SentencePiece(str(saved), sentinels, languages)
        case Marian():
            return dataclasses.replace(tokenizer, directory=str(saved))
        case Bytes():
            return tokenizer
        case _:
            return dataclasses.replace(tokenizer, path=str(saved))


def _checkpoint(directory: AnyPath, step: str | None) -> AnyPath:
    """The directory of a step, of the best one, or of the newest that verifies."""
    if step == BEST:
        best = best_step(_checkpoint(directory, None))
        there = best is not None and (directory / "checkpoints" / str(best)).is_dir()
        require(there, f"{directory} keeps no best checkpoint: no evaluation has been kept for it, or keep_best is 0.")
        step = str(best)
    newest_first = steps_on_disk(directory / "checkpoints")
    require(bool(newest_first), f"{directory} has no checkpoint yet.")
    wrong = ""
    for number in newest_first if step is None else [step]:
        found = directory / "checkpoints" / str(number)
        wrong = verify(found)
        if not wrong:
            return found
    raise ConfigError(f"{directory} has no checkpoint that verifies: {wrong}.")


def _restore(checkpoint: AnyPath, kind: str, model: Model, shardings: Any, fresh: tuple[str, ...]) -> Params:
    """The parameters, or their average, that are not `fresh`, alone; the optimizer's state is not read."""
    shapes = flatten(abstract_params(model))
    shapes = {path: shapes[path] for path in shapes.keys() - fresh_paths(shapes, fresh)}
    kinds: dict[str, ocp.RestoreArgs] = {path: ocp.RestoreArgs(restore_type=np.ndarray) for path in shapes}
    if shardings is not None:
        places = flatten(shardings)
        kinds = {path: ocp.ArrayRestoreArgs(sharding=places[path]) for path in shapes}
    restore = ocp.args.PyTreeRestore(
        item={kind: unflatten(shapes)}, restore_args={kind: unflatten(kinds)}, partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(absolute(checkpoint) / "state", args=restore)[kind]


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
        partial(huggingface.read_params, path, model),
        partial(read_tokenizer, path),
        generation,
    )


def _t5x(path: Path) -> Weights | None:
    if not (path / "checkpoint").is_file():
        return None
    model = t5x.read_config(path)
    return Weights(
        "T5X",
        model,
        partial(t5x.read_params, path, model),
        partial(_no_tokenizer, path, "T5X"),
        implied_generation(model),
    )


def _marian(path: Path) -> Weights | None:
    if path.suffix != ".npz":
        return None
    model, beside = marian.read_config(path), vocabulary_beside(path)
    return Weights(
        "Marian",
        model,
        partial(marian.read_params, path, model),
        lambda: read_tokenizer(beside if beside.is_dir() else path.parent),
        implied_generation(model, marian.read_generation(path)),
    )


def vocabulary_beside(path: Path) -> Path:
    """The directory of a Marian file's own vocabulary; without it what is published lies around the file."""
    return path.with_suffix(".tokenizer")


def _fairseq(path: Path) -> Weights | None:
    if path.suffix != ".pt":
        return None
    model = fairseq.read_config(path)
    return Weights(
        "fairseq",
        model,
        partial(fairseq.read_params, path, model),
        partial(_no_tokenizer, path, "fairseq"),
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
        start = tokenizer.start_id(language)  # which also refuses an unknown language
        start = start if model.zero_token is None else model.zero_token
        forced = tokenizer.forced_first(language) if tokenizer.language_ids and language is not None else None
        return Generation(start, tokenizer.eos_id, tokenizer.pad_id, forced_first=forced)

    return generation


def with_controls(generation: Generation, model: Model, tokenizer: Tokenizer, language: str | None) -> Generation:
    """The same choice of tokens, with the control tokens that the tokenizer and the language to write imply.

    Raises:
        ConfigError: the language is unknown.
    """
    implied = implied_generation(model)(tokenizer, language)
    return dataclasses.replace(
        generation,
        start_token=implied.start_token,
        eos_token=implied.eos_token,
        pad_token=implied.pad_token,
        forced_first=implied.forced_first,
    )


def open_tokenizer_at(path: Path) -> Tokenizer:
    """A Hugging Face directory's tokenizer, or a SentencePiece model of T5 with 100 sentinels."""
    if path.is_dir():
        return read_tokenizer(path)
    require(path.is_file(), f"{path} is no tokenizer: give a directory, or a SentencePiece model.")
    return open_tokenizer(SentencePiece(str(path)))
