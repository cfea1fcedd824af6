"""Trained models in every supported format: recognise the format from the files; read the model and its tokenizer."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from research.config import (
    TRAINING_ONLY,
    ConfigError,
    Experiment,
    Generation,
    Model,
    Pretrained,
    SentencePiece,
    Supervised,
    Vocabulary,
    override,
    require,
)
from research.config.model import LONGEST
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.model.transformer import Params, abstract_params
from research.parallel.rules import flatten, merge
from research.pretrained import fairseq, huggingface, marian, peft, t5x
from research.pretrained.files import shards
from research.pretrained.hub import located
from research.pretrained.rows import check_vocabulary
from research.pretrained.run_files import BEST, checkpoint_of, restore, run_of, saved_vocabulary
from research.pretrained.table import fresh_paths
from research.pretrained.tokenizer_files import read_tokenizer, read_vocabulary
from research.pretrained.weights import Weights, changed
from research.storage import manifest, run_directory
from research.storage.bucket import AnyPath, any_path, check_reachable, is_remote

KNOWN = (
    "a run directory or one of its checkpoints, a Hugging Face directory (config.json with model_type) or its name on"
    " the hub (hf://ORGANISATION/NAME), a T5X checkpoint (a directory with a file named checkpoint), Marian's .npz, or"
    " fairseq's .pt"
)

# Fields that may differ from those of the initial weights; parameters of other shapes are then in init_fresh.
ROWS = ("vocab_size", "source_vocab_size")
VOCABULARY = (*ROWS, "zero_token")  # with init_fresh, the zero token may differ too


def find(path: AnyPath) -> Weights:
    """Find the model at `path`; read its configuration and the names of its tensors, but no parameters yet.

    A model of the hub is downloaded first.

    Raises:
        ConfigError: nothing at `path` has a known format, or it is damaged, or it cannot be fetched from the hub.
    """
    path = located(path)
    check_reachable(path)
    named = path.name == BEST and path.parent.name == "checkpoints"
    require(path.exists() or named, f"{path} does not exist: give {KNOWN}.")
    for recognise in (_run, _huggingface, _t5x, _marian, _fairseq):
        try:
            weights = recognise(path)
        except ConfigError as error:  # the check of a single field does not know the path
            raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from error
        require(
            weights is not None or not is_remote(path),
            f"{path} is not a run directory, the only format read from a bucket: copy it to a local disk first.",
        )
        if weights:
            return weights
    raise ConfigError(f"{path} has no known format: give {KNOWN}.")


def stored_fields(path: str, names: Collection[str]) -> dict[str, Any]:
    """Read fields of `Pretrained` from the model at `path`.

    Raises:
        ConfigError: as `find`; the model is of a user's class; or its tokenizer has ids without a row.
    """
    weights = find(any_path(path))
    model, kind = weights.model, type(weights.model).__name__
    require(
        type(model) is Model, f"{path} holds a model of the class {kind}: give model={kind}(...), and its path as init."
    )
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(Model)}
    if "tokenizer" in names and (vocabulary := weights.vocabulary()) is not None:
        try:
            check_vocabulary(model, weights.tokenizer())
        except ConfigError as error:
            raise error if path in str(error) else ConfigError(f"{path}: {error}") from error
        fields["tokenizer"] = vocabulary
    if "generation" in names:
        fields["generation"] = weights.settings()
    if "prefixes" in names:
        fields["prefixes"] = tuple(weights.prefixes().items())
    return fields


def overridden(model: Pretrained) -> dict[str, tuple[Any, Any]]:
    """Return {field: (stored, here)} of what differs from the model at its path.

    Raises:
        ConfigError: there is no model any more.
    """
    return override.diff(Pretrained(model.path), model)


def check_same_model(expected: Model, stored: Model, path: AnyPath, free: tuple[str, ...] = ()) -> None:
    """Raise ConfigError, listing every field outside `free` in which the model stored at `path` differs."""
    ignored = {*TRAINING_ONLY, *free}
    changes = {
        name: pair
        for name, pair in override.diff(stored.plain, expected.plain).items()
        if name.split(".")[0] not in ignored
    }
    differences = "; ".join(f"model.{name} is {old!r} there, but {new!r} here" for name, (old, new) in changes.items())
    require(not changes, f"{path} holds a different model: {differences}.")


def find_initial(experiment: Experiment, init: str) -> Weights:
    """Find the weights at `init` and check that they fit the experiment; read no parameters yet.

    Raises:
        ConfigError: there are no weights, or those of another model; a parameter has another shape and is not in
            `init_fresh`; or an expression of `init_fresh` matches nothing.
    """
    return find_model(experiment.model, init, experiment.init_fresh)


def find_model(model: Model, init: str, fresh: tuple[str, ...] = ()) -> Weights:
    """Find the weights at `init` and check that they are of the model; parameters that match `fresh` may differ.

    Raises:
        ConfigError: as `find_initial`.
    """
    path = any_path(init)
    weights = changed(find(path), path, model)
    free, zero = VOCABULARY if fresh else ROWS, weights.model.zero_token
    if model.zero_token is None and zero is not None and zero < weights.model.vocab_size:
        free = VOCABULARY  # its row of zeros is trained
    if weights.model.adapter is None:
        free = (*free, "adapter")  # which begins anew
    check_same_model(model, weights.model, path, free)
    old, new = (flatten(abstract_params(each)) for each in (weights.model, model))
    loaded = old.keys() - fresh_paths(old, fresh)
    unlike = sorted(path for path in loaded if path not in new or old[path].shape != new[path].shape)
    message = f"{init} has a different vocabulary, so {', '.join(unlike)} cannot be loaded: list them in init_fresh"
    require(not unlike, f"{message}, or set model.vocab_size to {weights.model.vocab_size} and take its tokenizer.")
    return weights


def digest(path: AnyPath) -> str:
    """Hash the files of the weights at `path`. For a run they are listed, with their hashes, in the manifest."""
    path = located(path)
    if run_of(path) is not None:
        files = [checkpoint_of(path) / manifest.MANIFEST]
    elif path.is_file():
        files = [path]
    else:
        config = path / huggingface.CONFIG
        files = [config, *shards(path)] if config.is_file() else [each for each in path.rglob("*") if each.is_file()]
    hashes = sorted((file.name, manifest.digest(file)) for file in files)
    return hashlib.blake2b(json.dumps(hashes).encode(), digest_size=16).hexdigest()


def find_base(experiment: Experiment, recorded: str | None, where: AnyPath) -> Weights:
    """Find the weights that the run at `where` began with, and of which its checkpoints hold only the hash.

    Raises:
        ConfigError: they are missing, of another model, or not those with the recorded hash.
    """
    init = experiment.weights
    if init is None:
        raise ConfigError(f"{where} has an adapter, but names no weights that it was trained on.")
    path = located(any_path(init))
    restore = f"{where} holds only what its adapter trains, so restore it"
    require(path.exists(), f"{init}, with the weights that the adapter was trained on, does not exist: {restore}.")
    weights = find_initial(experiment, init)
    require(recorded == digest(path), f"{init} has changed since {where} was trained on it: {restore}.")
    return weights


def with_adapter(weights: Weights, path: AnyPath, directory: Path) -> Weights:
    """Add the adapter of a directory in PEFT's format to the weights at `path`.

    Raises:
        ConfigError: the directory holds no adapter, or that of another base.
    """
    require(weights.model.adapter is None, f"{path} has an adapter of its own: give its base.")
    stored = peft.find(directory, weights.model)
    same = stored.base is None or stored.base == digest(path)
    require(same, f"{directory} holds an adapter of another base than {path}, or its base has changed.")
    model = dataclasses.replace(weights.model, adapter=stored.adapter)

    def params(shardings: Any = None, fresh: tuple[str, ...] = ()) -> Params:
        return merge(weights.params(shardings, fresh), peft.read_params(stored, model, shardings))

    return weights._replace(model=model, params=params)


# --- The formats ------------------------------------------------------------------------------------------------------


def _run(path: AnyPath) -> Weights | None:
    directory = run_of(path)
    if directory is None:
        return None
    named = path.parent.name == "checkpoints" and path.name != BEST
    experiment, record = run_directory.read_recorded(directory, path if named else None)
    model, kind = experiment.model.plain, "params" if experiment.average_decay is None else "average"

    def params(shardings: Any = None, fresh: tuple[str, ...] = ()) -> Params:
        checkpoint = checkpoint_of(path)
        recorded, content = run_directory.read_recorded(directory, checkpoint)
        check_same_model(model, recorded.model, checkpoint)
        own = restore(checkpoint, kind, model, shardings, fresh)
        if model.adapter is None:
            return own
        base = flatten(find_base(recorded, content.get("base"), checkpoint).params(shardings, recorded.init_fresh))
        left_out = fresh_paths(base, fresh)
        return merge({path: leaf for path, leaf in base.items() if path not in left_out}, own)

    def vocabulary() -> Vocabulary:
        return saved_vocabulary(directory, experiment.data.tokenizer)

    def tokenizer() -> Tokenizer:
        opened = open_tokenizer(vocabulary())
        digest = record.get("data", {}).get("data.tokenizer", opened.digest)
        trained = f"{directory / 'tokenizer.model'} is not the tokenizer that the run was trained with"
        require(opened.digest == digest, f"{trained}: it was changed after the start, so restore it.")
        return opened

    def prefixes() -> dict[str, str]:
        tasks = experiment.data.tasks if isinstance(experiment.data, Supervised) else ()
        of_model = experiment.model.prefixes if isinstance(experiment.model, Pretrained) else ()
        return dict([*of_model, *(prefix for task in tasks for prefix in task.prefixes)])

    return Weights(
        "run",
        model,
        params,
        tokenizer,
        implied_generation(model),
        vocabulary,
        lambda: experiment.generation,
        prefixes,
        stored_as=kind,
    )


def _huggingface(path: Path) -> Weights | None:
    config = path / "config.json"
    if not config.is_file() or "model_type" not in huggingface.read_json(config):
        return None
    model = huggingface.read_config(path)

    def generation(tokenizer: Tokenizer | None, language: str | None) -> Generation:
        if tokenizer is None:
            return huggingface.read_generation(path)
        implied = implied_generation(model)(tokenizer, language)
        is_multilingual = tokenizer.language_ids and language is not None
        stored = huggingface.read_generation(path, **({"start_token": implied.start_token} if is_multilingual else {}))
        return (
            stored if implied.forced_first is None else dataclasses.replace(stored, forced_first=implied.forced_first)
        )

    return Weights(
        "Hugging Face",
        model,
        partial(huggingface.read_params, path, model),
        partial(read_tokenizer, path),
        generation,
        partial(read_vocabulary, path),
        partial(huggingface.read_own_generation, path),
        partial(huggingface.read_prefixes, path),
        states_max_length=huggingface.states_max_length(path),
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

    def place() -> Path:
        return beside if beside.is_dir() else path.parent

    return Weights(
        "Marian",
        model,
        partial(marian.read_params, path, model),
        lambda: read_tokenizer(place()),
        implied_generation(model, marian.read_generation(path)),
        lambda: read_vocabulary(place()),
        lambda: dataclasses.replace(marian.read_generation(path), max_length=LONGEST),
    )


def vocabulary_beside(path: Path) -> Path:
    """Return the vocabulary directory beside a Marian file; published models keep theirs in the file's own folder."""
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
    raise ConfigError(f"{path}: {format} stores no tokenizer with its weights: give one with --tokenizer.")


def implied_generation(
    model: Model, default: Generation = Generation()
) -> Callable[[Tokenizer | None, str | None], Generation]:
    """Return a function from a tokenizer and a target language to the generation settings that they imply.

    Without a tokenizer it returns `default`.
    """

    def generation(tokenizer: Tokenizer | None, language: str | None) -> Generation:
        if tokenizer is None:
            return default
        start = tokenizer.start_id(language)  # also raises for an unknown language
        start = start if model.zero_token is None else model.zero_token
        forced = tokenizer.forced_first(language) if tokenizer.language_ids and language is not None else None
        return Generation(start, tokenizer.eos_id, tokenizer.pad_id, forced_first=forced)

    return generation


def with_controls(generation: Generation, model: Model, tokenizer: Tokenizer, language: str | None) -> Generation:
    """Replace the control tokens of `generation` by those that the tokenizer and the target language imply.

    Raises:
        ConfigError: the language is unknown.
    """
    implied = implied_generation(model)(tokenizer, language)
    return dataclasses.replace(
        generation,
        start_token=implied.start_token,
        eos_token=implied.eos_token,
        pad_token=implied.pad_token,
        forced_first=generation.forced_first if implied.forced_first is None else implied.forced_first,
    )


def open_tokenizer_at(path: Path) -> Tokenizer:
    """Open the tokenizer of a Hugging Face directory, or a SentencePiece model as T5's with 100 sentinels."""
    if path.is_dir():
        return read_tokenizer(path)
    require(path.is_file(), f"{path} is not a tokenizer: give a directory or a SentencePiece model.")
    return open_tokenizer(SentencePiece(str(path)))
