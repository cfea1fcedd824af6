"""Weights in Hugging Face directories, read and written: config.json, generation_config.json and the tensors' files.

Each family has a module with its own parts: the mapping between config.json and the model, and the table of tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from research.config import TRAINING_ONLY, Generation, Model, RMSNorm, require
from research.config.model import LONGEST
from research.data.tokenizer import Tokenizer
from research.model.transformer import Params
from research.pretrained import tokenizer_files
from research.pretrained.files import Tensors, new_directory, read_json, write_tensors
from research.pretrained.huggingface import bart, t5
from research.pretrained.huggingface.fields import Facts, check_known, check_types
from research.pretrained.huggingface.generation import KNOWN, TOKENS, dump, parse, refuse_differences
from research.pretrained.table import TensorRows, check_shapes, fill_params, foreign_tensors
from research.storage.files import write_json

CONFIG, GENERATION = "config.json", "generation_config.json"
FAMILIES: dict[str, ModuleType] = {name: family for family in (t5, bart) for name in family.FAMILIES}

SHARD_BYTES = 5 * 10**9


def read_config(directory: Path) -> Model:
    """Read the model's configuration from a Hugging Face directory.

    Raises:
        ConfigError: a file is missing or damaged, or config.json describes a model of another family.
    """
    path = directory / CONFIG
    config = read_json(path)
    family = family_of(config, path)
    config |= {field: config[name] for name, field in family.ALIASES.items() if config.get(name) is not None}
    check_types(config, family.TYPES, family.WHOLE, path)
    check_known(config, {*family.TYPES, *family.WHOLE, *family.ALIASES, *KNOWN}, family.fixed(config), path)
    tensors = Tensors(directory)
    return family.read_model(config, family.read_facts(config, tensors, path), path)


def family_of(config: dict[str, Any], path: Path) -> ModuleType:
    name = config.get("model_type")
    known = isinstance(name, str) and name in FAMILIES
    require(known, f"{path}: model_type is {name!r}, not one of {', '.join(FAMILIES)}.")
    return FAMILIES[str(name)]


def nearest_family(model: Model) -> ModuleType:
    """Return the family closest in structure to the model."""
    return t5 if isinstance(model.norm, RMSNorm) else bart


def table(model: Model, names: Any = ()) -> TensorRows:
    """Return the rows for a model and the names in a file; every name must match exactly one row."""
    return nearest_family(model).table(model, names)


def read_params(
    directory: Path,
    model: Model,
    shardings: Any = None,
    fresh: Sequence[str] = (),
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Params:
    """Read the parameters of `model` from a Hugging Face directory, in float32; see `fill_params`.

    `tensors` replace those of the directory.

    Raises:
        ConfigError: a file is missing or damaged, or the tensors are not exactly those of the model.
    """
    tensors = Tensors(directory) if tensors is None else tensors
    return fill_params(tensors, table(model, tensors), model, str(directory), shardings, fresh)


def read_generation(directory: Path, **tokens: int) -> Generation:
    """Read the generation settings of a Hugging Face directory; `tokens`, such as start_token, override its values.

    mBART's decoder starts from the code of the target language, which its files do not store: pass `start_token`.

    Raises:
        ConfigError: a file is missing or damaged, has an unsupported setting, or lacks a token that is not passed.
    """
    settings, path = _generation_settings(directory)
    return parse(settings | {TOKENS[field]: token for field, token in tokens.items()}, path)


def read_own_generation(directory: Path) -> Generation:
    """Read the generation settings without the tokens that a tokenizer implies, and without a limit if none is stated.

    Raises:
        ConfigError: as `read_generation`.
    """
    settings = read_generation(directory, start_token=0)
    return settings if states_max_length(directory) else replace(settings, max_length=LONGEST)


def read_prefixes(directory: Path) -> dict[str, str]:
    """Read the prefixes of sources by task, such as {"summarization": "summarize: "} of T5."""
    match read_json(directory / CONFIG).get("task_specific_params"):
        case dict() as tasks:
            found = {name: task.get("prefix") for name, task in tasks.items() if isinstance(task, dict)}
            return {name: prefix for name, prefix in found.items() if isinstance(prefix, str) and prefix}
    return {}


def states_max_length(directory: Path) -> bool:
    """Return whether a directory's files limit the length of outputs; without a limit transformers cuts at 20."""
    settings, _ = _generation_settings(directory)
    return any(settings.get(name) is not None for name in ("max_length", "max_new_tokens"))


def _generation_settings(directory: Path) -> tuple[dict[str, Any], Path]:
    """Read the generation settings of a directory, and the file that has them."""
    config = read_json(directory / CONFIG)
    path = directory / CONFIG
    settings = family_of(config, path).TOKENS[config["model_type"]] | config
    if config.get("force_bos_token_to_be_generated"):
        settings["forced_bos_token_id"] = settings.get("bos_token_id")
    if (directory / GENERATION).is_file():
        path = directory / GENERATION
        # From config.json only the tokens are then used.
        settings = {name: settings.get(name) for name in TOKENS.values()} | read_json(path)
    else:
        settings = {name: value for name, value in settings.items() if name in KNOWN}
    return settings, path


def write(
    directory: Path, model: Model, params: Params, generation: Generation, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a directory for transformers' from_pretrained, in float32: configuration, generation settings and weights.

    The directory must not exist or be empty; it appears only when it is complete. A decoder whose start token has no
    row in the embedding (zero_token equal to vocab_size) gets a row of zeros, as Hugging Face does for Marian. Dropout
    rates are written if the family has fields for them.

    Raises:
        ConfigError: the directory already exists, or the format cannot represent the model or the generation settings.
    """
    with new_directory(directory) as partial:
        if model.zero_token == model.vocab_size:
            model, params, generation = with_zero_row(model, params, generation)
        family = nearest_family(model)
        tokens = {name: getattr(generation, field) for field, name in TOKENS.items()}
        config = family.write_config(model) | tokens | {"is_encoder_decoder": True, "dtype": "float32"}
        facts = Facts("head" in params, model.logits_bias, model.zero_token is not None)
        refuse_differences(model, family.read_model(config, facts, directory / CONFIG), "model", TRAINING_ONLY)
        settings = dump(generation, directory / GENERATION)
        check_shapes(params, model)
        write_tensors(partial, foreign_tensors(params, table(model), model), shard_bytes)
        write_json(partial / CONFIG, config)
        write_json(partial / GENERATION, settings)


def write_directory(
    directory: Path, model: Model, params: Params, tokenizer: Tokenizer | None, generation: Generation
) -> None:
    """Write a directory as `write` does, together with the files of the tokenizer, if given.

    Raises:
        ConfigError: as `write`.
    """
    if model.zero_token is not None:
        generation = replace(generation, start_token=model.zero_token)
    with new_directory(directory) as unfinished:
        write(unfinished, model, params, generation)
        if tokenizer is not None:
            tokenizer_files.write_tokenizer(tokenizer, unfinished)
            # From here CTranslate2's converter knows mBART-50, which starts from </s>.
            name = read_json(unfinished / tokenizer_files.CONFIG)["tokenizer_class"]
            write_json(unfinished / CONFIG, read_json(unfinished / CONFIG) | {"tokenizer_class": name})


def with_zero_row(model: Model, params: Params, generation: Generation) -> tuple[Model, Params, Generation]:
    """Add a row of zeros to the embedding for the model's zero token, and ban that token from being written.

    Raises:
        ConfigError: the encoder's separate vocabulary has no such token, or decoding does not start from it.
    """
    zero, source = model.vocab_size, model.source_vocab_size
    enough = source is None or source > zero
    require(enough, f"model.zero_token is {zero}: source_vocab_size is {source}, but must be larger than it.")
    wrong = f"generation.start_token is {generation.start_token}: it must be model.zero_token, {zero}."
    require(generation.start_token == zero, wrong)
    padding: dict[str, Any] = {"embedding": [(0, 1), (0, 0)], "head": [(0, 0), (0, 1)], "logits_bias": [(0, 1)]}
    grown = {name: np.pad(np.asarray(params[name]), ends) for name, ends in padding.items() if name in params}
    generation = replace(generation, pad_token=zero, banned=(*generation.banned, zero))
    return replace(model, vocab_size=zero + 1), {**params, **grown}, generation
