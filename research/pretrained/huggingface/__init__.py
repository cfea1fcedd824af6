"""Weights in and out of Hugging Face directories: config.json, generation_config.json, and the tensors' files.

A file a family holds what is its own: how config.json tells of the model, and the table of its tensors.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from research.config import TRAINING_ONLY, Generation, Model, RMSNorm, require
from research.data.tokenizer import Tokenizer
from research.model.transformer import Params
from research.pretrained import tokenizer_files
from research.pretrained.files import Tensors, new_directory, read_json, write_tensors
from research.pretrained.huggingface import bart, t5
from research.pretrained.huggingface.fields import Facts, check_types
from research.pretrained.huggingface.generation import TOKENS, dump, parse, refuse_differences
from research.pretrained.table import TensorRows, check_shapes, fill_params, foreign_tensors
from research.storage.files import write_json

CONFIG, GENERATION = "config.json", "generation_config.json"
FAMILIES: dict[str, ModuleType] = {name: family for family in (t5, bart) for name in family.FAMILIES}

SHARD_BYTES = 5 * 10**9


def read_config(directory: Path) -> Model:
    """The model a Hugging Face directory holds.

    Raises:
        ConfigError: a file is missing or damaged, or config.json describes a model that is not of these families.
    """
    path = directory / CONFIG
    config = read_json(path)
    family = family_of(config, path)
    check_types(config, family.TYPES, family.WHOLE, path)
    tensors = Tensors(directory)
    return family.read_model(config, family.read_facts(config, tensors, path), path)


def family_of(config: dict[str, Any], path: Path) -> ModuleType:
    name = config.get("model_type")
    known = isinstance(name, str) and name in FAMILIES
    require(known, f"{path}: model_type is {name!r}, not one of {', '.join(FAMILIES)}.")
    return FAMILIES[str(name)]


def nearest_family(model: Model) -> ModuleType:
    """The family that shares most of its structure with the model."""
    return t5 if isinstance(model.norm, RMSNorm) else bart


def table(model: Model, names: Any = ()) -> TensorRows:
    """The rows for this structure and the names that a file has, of which each must match exactly one."""
    return nearest_family(model).table(model, names)


def read_params(directory: Path, model: Model, shardings: Any = None, fresh: Sequence[str] = ()) -> Params:
    """The parameters of `model` from a Hugging Face directory, in float32; see `fill_params`.

    Raises:
        ConfigError: a file is missing or damaged, or the tensors are not exactly those of the model.
    """
    tensors = Tensors(directory)
    return fill_params(tensors, table(model, tensors), model, str(directory), shardings, fresh)


def read_generation(directory: Path, **given: int) -> Generation:
    """How the model of a Hugging Face directory chooses its tokens; tokens may be `given`, as start_token.

    mBART's decoder starts from the code of the language to write, which its files do not say: it has to be given.

    Raises:
        ConfigError: a file is missing or damaged, asks for what there is not here, or a token is not said nor given.
    """
    config = read_json(directory / CONFIG)
    path = directory / CONFIG
    said = family_of(config, path).TOKENS[config["model_type"]] | config
    if (directory / GENERATION).is_file():
        path = directory / GENERATION
        # Of config.json only the tokens still count.
        said = {name: said.get(name) for name in TOKENS.values()} | read_json(path)
    return parse(said | {TOKENS[field]: token for field, token in given.items()}, path)


def write(
    directory: Path, model: Model, params: Params, generation: Generation, shard_bytes: int = SHARD_BYTES
) -> None:
    """A directory that transformers' from_pretrained loads, in float32: config, generation and weights.

    It must not exist or be empty, and comes to be at once, whole. A decoder that starts from no row of the embedding
    (zero_token equal to vocab_size) is given one of zeros, as Hugging Face does for Marian. Dropout is written as far
    as the family has fields for it.

    Raises:
        ConfigError: the directory is there already, or these files cannot say what the model or the generation does.
    """
    with new_directory(directory) as partial:
        if model.zero_token == model.vocab_size:
            model, params, generation = with_zero_row(model, params, generation)
        family = nearest_family(model)
        tokens = {name: getattr(generation, field) for field, name in TOKENS.items()}
        config = family.write_config(model) | tokens | {"is_encoder_decoder": True, "dtype": "float32"}
        facts = Facts("head" in params, model.logits_bias, model.zero_token is not None)
        refuse_differences(model, family.read_model(config, facts, directory / CONFIG), "model", TRAINING_ONLY)
        said = dump(generation, directory / GENERATION)
        check_shapes(params, model)
        write_tensors(partial, foreign_tensors(params, table(model), model), shard_bytes)
        write_json(partial / CONFIG, config)
        write_json(partial / GENERATION, said)


def write_directory(
    directory: Path, model: Model, params: Params, tokenizer: Tokenizer | None, generation: Generation
) -> None:
    """A directory as `write` makes it, with the files of the tokenizer, where there is one.

    Raises:
        ConfigError: as `write`.
    """
    if model.zero_token is not None:
        generation = replace(generation, start_token=model.zero_token)
    with new_directory(directory) as unfinished:
        write(unfinished, model, params, generation)
        if tokenizer is not None:
            tokenizer_files.write_tokenizer(tokenizer, unfinished)


def with_zero_row(model: Model, params: Params, generation: Generation) -> tuple[Model, Params, Generation]:
    """The same model whose zero token has a row of the embedding, and is never written.

    Raises:
        ConfigError: the encoder's own vocabulary has no such token.
    """
    zero, source = model.vocab_size, model.source_vocab_size
    enough = source is None or source > zero
    require(enough, f"model.zero_token is {zero}, for which source_vocab_size, {source}, would have to be larger.")
    said = f"generation.start_token is {generation.start_token}: model.zero_token, {zero}, which has no row."
    require(generation.start_token == zero, said)
    more: dict[str, Any] = {"embedding": [(0, 1), (0, 0)], "head": [(0, 0), (0, 1)], "logits_bias": [(0, 1)]}
    grown = {name: np.pad(np.asarray(params[name]), ends) for name, ends in more.items() if name in params}
    generation = replace(generation, pad_token=zero, banned=(*generation.banned, zero))
    return replace(model, vocab_size=zero + 1), {**params, **grown}, generation
