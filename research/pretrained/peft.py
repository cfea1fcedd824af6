"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, read and written.

The tensors are named after the projections of the Hugging Face model, so the table of that model's family gives the
table of its adapters. Loading in PEFT and back gives equal logits (tests/pretrained/test_peft.py).
"""

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from research.config import Adapter, ConfigError, Model, Sinusoidal, require
from research.config.adapter import ADDED, IA3, NAME, PROMPT, WEIGHT, LoRA, PromptTuning
from research.model.transformer import abstract_params
from research.parallel.rules import Tree, flatten, unflatten
from research.pretrained import huggingface
from research.pretrained.files import Tensors, new_directory, read_json
from research.pretrained.table import HEADS_IN, HEADS_OUT, STACKS, Row, Transform, fill_params, foreign_tensors
from research.storage.files import write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE = "base"  # key in the metadata of the tensors: the digest of the weights that they were trained on

# Fields that say nothing about what the adapter computes, once it is trained.
HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules", "feedforward_modules"),
    *("inference_mode", "init_ia3_weights", "init_lora_weights", "megatron_core", "peft_type", "peft_version"),
    *("qalora_group_size", "revision", "runtime_config", "target_modules", "task_type"),
}
LORA_FIELDS = ("r", "lora_alpha", "lora_dropout", "use_rslora")
# Of prompts PEFT 0.21 uses only those of the encoder; a file for two submodules has rows for the decoder too.
PROMPT_FIELDS = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_layers", "num_attention_heads")
FIRST_VALUES = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
READ = {"LORA": {*LORA_FIELDS}, "IA3": set[str](), "PROMPT_TUNING": {*PROMPT_FIELDS, *FIRST_VALUES}}
PROMPT_TENSOR = "prompt_embeddings"


class StoredAdapter(NamedTuple):
    """An adapter in a directory: its settings, and the digest of its base if the file has it."""

    directory: Path
    adapter: Adapter
    base: str | None


# --- The table --------------------------------------------------------------------------------------------------------


def _reshaped(shape: Callable[[Model], tuple[int, ...]], turned: bool) -> Transform:
    """Return the transform of a matrix to the shape, after transposing it, and back to two axes.

    `turned` tells whether the rank is the last axis of our array; otherwise it is the first.
    """

    def read(array: np.ndarray, model: Model) -> np.ndarray:
        own = shape(model)
        return array.T.reshape((*own, len(array)) if turned else (array.shape[1], *own))

    def write(array: np.ndarray, model: Model) -> np.ndarray:
        return (array.reshape(-1, array.shape[-1]) if turned else array.reshape(len(array), -1)).T

    return Transform(read, write)


def _vector(shape: Callable[[Model], tuple[int, ...]], as_row: bool) -> Transform:
    """Return the transform of a vector, stored as one row or one column, to the shape."""
    stored = (1, -1) if as_row else (-1, 1)
    return Transform(lambda array, model: array.reshape(shape(model)), lambda array, model: array.reshape(stored))


def _one_axis(model: Model) -> tuple[int, ...]:
    return (-1,)


def _heads(model: Model) -> tuple[int, ...]:
    return model.heads, model.head_width


class NamedProjection(NamedTuple):
    """A projection of the model: its name in Hugging Face's with {layer} for the number, and its weight's path."""

    module: str
    path: str
    transform: Transform


def projections(model: Model) -> list[NamedProjection]:
    """List the projections of a model that Hugging Face's format can express."""
    return [
        NamedProjection(
            row.foreign.removesuffix(".weight").replace("{stack}", stack).replace("{part}", part),
            row.path.format(stack=stack, part=own),
            row.transform,
        )
        for row in huggingface.table(replace(model, adapter=None))
        if isinstance(row, Row) and row.path.endswith(WEIGHT)
        for stack in (STACKS if "{stack}" in row.foreign else ("",))
        for part, own in (row.parts.items() or (("", ""),))
    ]


def table(model: Model, paths: Container[str]) -> list[Row]:
    """Return the rows of the tensors for the parameters of an adapter at `paths`."""
    own_rows = Transform(lambda array, model: array[: len(model.prompt)], lambda array, model: array)
    rows = [Row(PROMPT_TENSOR, PROMPT, own_rows)]
    for module, path, transform in projections(model):
        reads, writes = (_heads if transform is each else _one_axis for each in (HEADS_IN, HEADS_OUT))
        foreign, stem = PREFIX + module, path.removesuffix(WEIGHT) + ADDED
        rows += [
            Row(f"{foreign}.lora_A.weight", stem + "a", _reshaped(reads, turned=True)),
            Row(f"{foreign}.lora_B.weight", stem + "b", _reshaped(writes, turned=False)),
            Row(f"{foreign}.ia3_l", stem + "output_scale", _vector(writes, as_row=False)),
            Row(f"{foreign}.ia3_l", stem + "input_scale", _vector(reads, as_row=True)),
        ]
    return [row for row in rows if row.path in paths]


# --- Reading ----------------------------------------------------------------------------------------------------------


def is_adapter(directory: Path) -> bool:
    return (directory / CONFIG).is_file()


def find(directory: Path, model: Model) -> StoredAdapter:
    """Read the settings of an adapter for a model, and the names of its tensors.

    Raises:
        ConfigError: a file is missing or damaged, a setting is not supported, or the tensors are for another model.
    """
    require(is_adapter(directory), f"{directory} holds no adapter: there is no {CONFIG}.")
    path = directory / CONFIG
    config = read_json(path)
    kind = config.get("peft_type")
    require(kind in READ, f"{path}: peft_type is {kind!r}; only {' and '.join(READ)} can be read.")
    plain = {"bias": "none", "loftq_config": {}}
    others = {
        name: value
        for name, value in config.items()
        if value and value != plain.get(name) and name not in HARMLESS | READ[str(kind)]
    }
    shown = ", ".join(f"{name} is {value!r}" for name, value in others.items())
    require(not others, f"{path}: {shown}, which may change what the adapter computes and is not supported.")
    tensors = Tensors(directory, WEIGHTS)
    base = (next(iter(tensors.files.values())).metadata() or {}).get(BASE)
    if kind == "PROMPT_TUNING":
        return StoredAdapter(directory, _prompt(config, tensors, model, path), base)
    weights = _targets([*tensors], model, directory)
    if kind == "IA3":
        inputs = tuple(weight for weight, names in weights.items() if len(tensors[names[0]]) == 1)
        return StoredAdapter(directory, IA3(tuple(weights), inputs), base)
    match [config.get(name) for name in LORA_FIELDS]:
        case [int(rank), int() | float() as alpha, int() | float() as rate, rslora]:
            return StoredAdapter(directory, LoRA(rank, float(alpha), tuple(weights), float(rate), rslora is True), base)
        case [rank, alpha, rate, _]:
            message = f"{path}: r is {rank!r}, lora_alpha {alpha!r} and lora_dropout {rate!r}: they must be numbers."
    raise ConfigError(message)


def _prompt(config: dict[str, Any], tensors: Tensors, model: Model, path: Path) -> PromptTuning:
    tokens, parts = config.get("num_virtual_tokens"), config.get("num_transformer_submodules")
    if not (isinstance(tokens, int) and tokens > 0 and parts in (1, 2)):
        raise ConfigError(f"{path}: num_virtual_tokens is {tokens!r} and num_transformer_submodules {parts!r}.")
    _check_scaling(model, path)
    expected = {PROMPT_TENSOR: (tokens * parts, model.width)}
    found = {name: tensors[name].shape for name in tensors}
    require(found == expected, f"{path.with_name(WEIGHTS)} has {found}, but this base and {CONFIG} make it {expected}.")
    return PromptTuning(tokens)


def _check_scaling(model: Model, path: Path) -> None:
    """Raise ConfigError if PEFT computes prompts otherwise: in Marian it leaves the source's embeddings unscaled."""
    marian = model.scaled_embedding and isinstance(model.positions, Sinusoidal)
    require(not marian, f"{path}: PEFT does not scale Marian's embeddings after a prompt, so outputs would differ.")


def _targets(names: list[str], model: Model, directory: Path) -> dict[str, list[str]]:
    """Return the tensors of each weight's adapter, of all layers together, by the path of the weight."""
    found: dict[str, list[str]] = {}
    for module, path, _ in projections(model):
        pattern = re.escape(PREFIX + module).replace(r"\{layer\}", "[0-9]+") + r"\.(lora_[AB]\.weight|ia3_l)"
        if matches := [name for name in names if re.fullmatch(pattern, name)]:
            found[path] = matches
    stray = sorted(set(names) - {name for matches in found.values() for name in matches})
    message = f"{directory} holds an adapter of another model: {', '.join(stray[:3])} is for no projection of the base."
    require(not stray and bool(found), message)
    return found


def read_params(stored: StoredAdapter, model: Model, shardings: Any = None) -> Tree:
    """Read the parameters that an adapter adds to the model, which has this adapter; see `fill_params`."""
    rows = table(model, flatten(abstract_params(model)))
    return fill_params(Tensors(stored.directory, WEIGHTS), rows, model, str(stored.directory), shardings, (OTHERS,))


OTHERS = rf"(?!(.*/)?{NAME}/).*"  # the paths of parameters that belong to no adapter

# --- Writing ----------------------------------------------------------------------------------------------------------


def write(directory: Path, model: Model, params: Tree, base: str | None = None, digest: str | None = None) -> None:
    """Write the adapter of a model for PEFT's from_pretrained; `base` is the path of the model without it.

    Raises:
        ConfigError: the directory exists already, or the format cannot represent the adapter or its base.
    """
    adapter = model.adapter
    kinds = "LoRA, IA3 and PromptTuning"
    if not isinstance(adapter, LoRA | IA3 | PromptTuning):
        raise ConfigError(f"model.adapter is {type(adapter).__name__}: PEFT's format is written for {kinds} only.")
    flat = {path: leaf for path, leaf in flatten(params).items() if adapter.trains(path)}
    tensors = dict(foreign_tensors(unflatten(flat), table(model, flat), model))
    weights = {path.split(ADDED)[0] + WEIGHT for path in flat if ADDED in path}
    inputs = {path.split(ADDED)[0] + WEIGHT for path in flat if path.endswith("/input_scale")}
    config: dict[str, Any] = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": _modules(weights, model, tensors),
        "task_type": None,  # with SEQ_2_SEQ_LM, PEFT 0.21 cannot load any adapter in transformers 5
    }
    match adapter:
        case LoRA(rank=rank, alpha=alpha, dropout=dropout, rslora=rslora):
            settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "use_rslora": rslora}
            config |= {"peft_type": "LORA"} | settings
        case IA3():
            del config["bias"]
            config |= {"peft_type": "IA3", "feedforward_modules": _modules(inputs, model, tensors)}
        case PromptTuning(tokens=tokens):
            _check_scaling(model, directory)
            sizes = tokens, model.width, 1, model.encoder_layers, model.heads
            config = {
                "base_model_name_or_path": base,
                "inference_mode": True,
                "peft_type": "PROMPT_TUNING",
                "task_type": "SEQ_2_SEQ_LM",  # without it PEFT adds no prompt
                "prompt_tuning_init": "RANDOM",
                **dict(zip(PROMPT_FIELDS, sizes, strict=True)),
            }
    with new_directory(directory) as unfinished:
        save_file(tensors, unfinished / WEIGHTS, {"format": "pt"} | ({} if digest is None else {BASE: digest}))
        write_json(unfinished / CONFIG, config)


def _modules(weights: Container[str], model: Model, tensors: Iterable[str]) -> list[str]:
    """Name the modules of the weights: by their last names, if all modules with such a name are meant."""
    known = {module: path in weights for module, path, _ in projections(model)}
    last = {module.rpartition(".")[2] for module, own in known.items() if own}
    if all(own for module, own in known.items() if module.rpartition(".")[2] in last):
        return sorted(last)
    modules = {re.sub(r"\.(lora_[AB]\.weight|ia3_l)$", "", name.removeprefix(PREFIX)) for name in tensors}
    return sorted(name for name in modules if known[re.sub(r"\.[0-9]+\.", ".{layer}.", name, count=1)])
