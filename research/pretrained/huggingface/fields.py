"""Code shared by the families: checks of config.json, facts derived from the tensors, and the row of the head."""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from research.config import Model, Tied, UntiedHead, require
from research.pretrained.table import TRANSPOSED, Alias, Row

LARGEST_INTEGER = 2**63  # JSON may hold larger ones, which fit neither floats nor NumPy's integers

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]

# Names of activations in config.json; of several for one activation the first is written.
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}

# Fields of config.json that change neither the model's outputs nor what is generated: notes of the libraries that wrote
# it, settings of initial weights, of training, of pipelines and of classifiers, and fields that no version uses. The
# tensors show the number of layers.
HARMLESS = frozenset("""
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels add_bias_logits
    architectures attn_implementation bos_token_id chunk_size_feed_forward classif_dropout classifier_dropout dtype
    extra_pos_embeddings finetuning_task gradient_checkpointing id2label initializer_factor label2id model_type
    n_positions num_hidden_layers num_labels output_attentions output_hidden_states output_past prefix problem_type
    replacing_rate return_dict save_step scalable_attention sep_token_id student_decoder_layers
    student_encoder_layers task_specific_params tf_legacy_loss tokenizer_class torch_dtype torchscript
    transformers_version use_bfloat16 use_cache use_return_dict
""".split())  # noqa: SIM905  # fmt: skip

# Fields that can be read with these values only.
FIXED: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "add_cross_attention": (False, True),  # only decoders without an encoder of their own use it
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "per_layer_config": ({},),
}


class Facts(NamedTuple):
    """Properties of a model that only its tensors show."""

    head: bool  # there is a tensor for the head
    logits_bias: bool
    zero_pad: bool  # the embedding of padding is zero


def written_activation(model: Model) -> str:
    return next(name for name, own in ACTIVATIONS.items() if own == model.activation)


def head_row(model: Model, embedding: str) -> Row | Alias:
    """Return the row of the head: a separate tensor, or a copy of the tensor named `embedding`."""
    match model.head:
        case UntiedHead():
            return Row("lm_head.weight", "head", TRANSPOSED)
        case Tied():
            return Alias("lm_head.weight", embedding)


def check_types(
    config: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], whole: Iterable[str], path: Path
) -> None:
    """Raise ConfigError if a field has a wrong type, or if one of `whole` is missing or not an integer."""
    for name, allowed in types.items():
        value = config.get(name)
        fits = isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed)
        fits = fits and not (isinstance(value, int) and abs(value) > LARGEST_INTEGER)
        expected = " or ".join(type.__name__ for type in allowed)
        require(fits or name not in config, f"{path}: {name} is {value!r}, which is not {expected}.")
    wrong = [name for name in whole if not isinstance(config.get(name), int) or isinstance(config[name], bool)]
    require(not wrong, f"{path}: {', '.join(wrong)} must be given, as integers.")


def check_known(config: Mapping[str, Any], known: Container[str], fixed: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if a field is neither `known` nor harmless, or is `fixed` to other values; null is no value."""
    for name, allowed in fixed.items():
        fits = any(config.get(name, allowed[0]) is value or config.get(name) == value for value in allowed)
        choices = " or ".join(map(repr, allowed))
        require(fits or config[name] is None, f"{path}: {name} is {config.get(name)!r}; only {choices} can be read.")
    unknown = sorted(
        name
        for name, value in config.items()
        if value is not None and name not in known and name not in fixed and name not in HARMLESS
    )
    many = "are fields that are" if len(unknown) > 1 else "is a field that is"
    require(
        not unknown,
        f"{path}: {', '.join(unknown)} {many} not known, and may change what the model computes: remove what does not.",
    )
