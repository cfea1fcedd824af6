"""Record the outputs of tiny random Hugging Face models in PyTorch: python -m scripts.make_goldens [VARIANT ...]

It writes tests/goldens/: a directory for each variant in the layout of `save_pretrained` (config.json,
model.safetensors) with expected.safetensors (inputs, encoder output, logits, loss, and the loss's gradients named like
the weights), and relative_bucket.npz. It needs torch and transformers. Run it again only to add a variant, by its name;
peft/VARIANT_lora, peft/VARIANT_ia3 and peft/VARIANT_prompt add adapters of a variant, and need peft.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"

# heads * d_kv differs from d_model, and all sizes differ, so that no wrong axis fits.
SIZES = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "dropout_rate": 0.1,
}
BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}


BART_SIZES = {
    "vocab_size": 61,
    "d_model": 24,
    "max_position_embeddings": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 3),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40),
}


class SpecialIds(NamedTuple):
    """The start and padding tokens, and upper bounds of the ids of sources and targets."""

    start: int = 0
    pad: int = 0
    source: int = 61
    target: int = 61


def draw_t5(model: Any) -> None:
    """Draw norm scales and biases that are large enough to matter."""
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.uniform_(0.5, 1.5)
        if "relative_attention_bias" in name:
            parameter.normal_()


def draw_small_t5(model: Any) -> None:
    """Draw a T5 with an embedding so small that the norm's epsilon matters too."""
    draw_t5(model)
    model.shared.weight.mul_(0.02)


# Standard deviations. The inputs of norms are small, so that their epsilon matters; scores and the inputs of
# activations are not small.
BART_DEVIATIONS = {
    "q_proj.weight": 4.0,
    "k_proj.weight": 4.0,
    "out_proj.weight": 0.07,
    "fc1.weight": 3.0,
    "fc1.bias": 1.0,
    "fc2.weight": 0.05,
    "embed_tokens.weight": 0.6,
    "shared.weight": 0.6,
    "weight": 0.3,
    "bias": 0.03,
}


def draw_bart(model: Any) -> None:
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in learned.items():
        if "norm" in name and name.endswith("weight"):
            parameter.uniform_(0.07, 0.2)
        else:
            parameter.normal_(std=next(value for end, value in BART_DEVIATIONS.items() if name.endswith(end)))


def draw_mbart(model: Any) -> None:
    draw_bart(model)
    model.final_logits_bias.normal_(std=0.05)


def draw_marian(model: Any) -> None:
    draw_mbart(model)
    for stack in (model.model.encoder, model.model.decoder):
        stack.embed_tokens.weight[model.config.pad_token_id] = 0
        # With sinusoids no norm reduces the input of the first layer's scores.
        stack.layers[0].self_attn.q_proj.weight.mul_(0.04)
        stack.layers[0].self_attn.k_proj.weight.mul_(0.04)


def draw_m2m(model: Any) -> None:
    """Draw larger outputs of sublayers, because no norm reduces the embeddings and sinusoids that they are added to."""
    draw_bart(model)
    for name, parameter in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight")):
            parameter.mul_(10)


class GoldenModel(NamedTuple):
    """A configuration like that of published checkpoints, with a tied or a separate head."""

    config: Any  # transformers' classes
    model: Any
    fields: dict[str, Any]
    separate_head: bool = False
    draw: Callable[[Any], None] = draw_t5
    tokens: SpecialIds = SpecialIds()


UNTIED = {"tie_word_embeddings": False}
MARIAN = {"scale_embedding": True, "eos_token_id": 0}

VARIANTS = {
    "t5": GoldenModel(T5Config, T5ForConditionalGeneration, SIZES),
    "t5_v1_1": GoldenModel(
        T5Config,
        T5ForConditionalGeneration,
        {**SIZES, "feed_forward_proj": "gated-gelu", **UNTIED, **BUCKETS},
        separate_head=True,
    ),
    "mt5": GoldenModel(MT5Config, MT5ForConditionalGeneration, {**SIZES, **UNTIED}, separate_head=True),
    "umt5": GoldenModel(UMT5Config, UMT5ForConditionalGeneration, {**SIZES, **UNTIED, **BUCKETS}, separate_head=True),
    "ul2": GoldenModel(
        T5Config,
        T5ForConditionalGeneration,
        {**SIZES, "feed_forward_proj": "gated-silu", **UNTIED, **BUCKETS},
        separate_head=True,
        draw=draw_small_t5,
    ),
    "bart": GoldenModel(
        BartConfig,
        BartForConditionalGeneration,
        {**BART_SIZES, "activation_function": "gelu"},
        draw=draw_bart,
        tokens=SpecialIds(start=2, pad=1),
    ),
    "mbart": GoldenModel(
        MBartConfig,
        MBartForConditionalGeneration,
        {**BART_SIZES, "activation_function": "gelu", "scale_embedding": True},
        draw=draw_mbart,
        tokens=SpecialIds(start=60, pad=1),
    ),
    "m2m_100": GoldenModel(
        M2M100Config,
        M2M100ForConditionalGeneration,
        {**BART_SIZES, "activation_function": "relu", "scale_embedding": True, "decoder_start_token_id": 2},
        draw=draw_m2m,
        tokens=SpecialIds(start=2, pad=1),
    ),
    "marian": GoldenModel(
        MarianConfig,
        MarianMTModel,
        {**BART_SIZES, **MARIAN, "activation_function": "swish", "pad_token_id": 60, "decoder_start_token_id": 60},
        draw=draw_marian,
        tokens=SpecialIds(start=60, pad=60, source=60, target=60),
    ),
    "marian_separate": GoldenModel(
        MarianConfig,
        MarianMTModel,
        {
            **BART_SIZES,
            **MARIAN,
            "activation_function": "relu",
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": 53,
            "pad_token_id": 52,
            "decoder_start_token_id": 52,
        },
        draw=draw_marian,
        tokens=SpecialIds(start=52, pad=52, source=52, target=52),
    ),
}


def build(variant: GoldenModel, seed: int, **fields: Any) -> Any:
    """Build a model in which all parameters differ and matter; `fields` change the configuration."""
    torch.manual_seed(seed)
    config = variant.config(**(variant.fields | fields), attn_implementation="eager")
    model = variant.model(config)
    if variant.separate_head:
        # transformers 5 ties the head for any configuration; published v1.1 weights are not tied.
        model.lm_head = torch.nn.Linear(config.d_model, config.vocab_size, bias=False)
        config.tie_word_embeddings = False
    with torch.no_grad():
        variant.draw(model)
    return model.eval()


def example(
    seed: int, rows: int = 3, source: int = 26, target: int = 17, padded: bool = True, tokens: SpecialIds = SpecialIds()
) -> dict[str, np.ndarray]:
    """Draw random tokens. If `padded`, all rows but the first end in padding, in source and target."""
    generator = np.random.default_rng(seed)
    lengths = {"source": np.full(rows, source), "target": np.full(rows, target)}
    if padded:
        lengths = {side: np.append(length[0], generator.integers(4, length[1:])) for side, length in lengths.items()}
    masks = {side: (np.arange(length.max()) < length[:, None]).astype(np.int64) for side, length in lengths.items()}
    inputs = np.where(masks["source"], generator.integers(2, tokens.source, (rows, source)), tokens.pad)
    targets = np.where(masks["target"], generator.integers(2, tokens.target, (rows, target)), tokens.pad)
    shifted = np.concatenate([np.full((rows, 1), tokens.start), targets[:, :-1]], axis=1)
    return {
        "encoder_input_tokens": inputs,
        "encoder_mask": masks["source"],
        "decoder_input_tokens": np.where(masks["target"], shifted, tokens.pad),
        "decoder_mask": masks["target"],
        "decoder_target_tokens": targets,
    }


def learned(model: Any) -> dict[str, torch.Tensor]:
    """Return the trained tensors by name, with the bias of the logits, which transformers keeps as a buffer."""
    tensors = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    bias = getattr(model, "final_logits_bias", None)
    return tensors if bias is None or not bias.any() else {**tensors, "final_logits_bias": bias.requires_grad_()}


def reference(model: Any, inputs: dict[str, np.ndarray], padded: bool = True) -> dict[str, np.ndarray]:
    """Compute encoder output, logits, mean loss over real targets, and its gradients, named "gradient/WEIGHT"."""
    batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
    masks = {"attention_mask": batch["encoder_mask"], "decoder_attention_mask": batch["decoder_mask"]} if padded else {}
    labels = batch["decoder_target_tokens"].masked_fill(batch["decoder_mask"] == 0, -100)
    tensors = learned(model)
    for tensor in tensors.values():
        tensor.grad = None
    outputs = model(
        input_ids=batch["encoder_input_tokens"],
        decoder_input_ids=batch["decoder_input_tokens"],
        labels=labels,
        use_cache=False,
        **masks,
    )
    outputs.loss.backward()
    results = {"encoded": outputs.encoder_last_hidden_state, "logits": outputs.logits, "loss": outputs.loss}
    results |= {f"gradient/{name}": tensor.grad for name, tensor in tensors.items()}
    return {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in results.items()}


def weights(model: Any) -> dict[str, np.ndarray]:
    """Return the tensors that `save_pretrained` writes."""
    named = learned(model) | {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    return {name: tensor.detach().numpy().copy() for name, tensor in named.items()}


def write_variant(name: str, variant: GoldenModel) -> None:
    directory = GOLDENS / name
    directory.mkdir(parents=True, exist_ok=True)
    model = build(variant, seed=0)
    inputs = example(seed=0, tokens=variant.tokens)
    config = {"model_type": variant.config.model_type, **variant.fields}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights(model), directory / "model.safetensors")
    versions = {package: version(package) for package in ("torch", "transformers")}
    save_file(inputs | reference(model, inputs), directory / "expected.safetensors", metadata=versions)


# By kind; of two values the first is for T5.
PEFT_ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 6, "target_modules": (["q", "v", "o", "wo"], ["q_proj", "v_proj", "fc1"])},
    "ia3": {
        "target_modules": (["k", "v", "wo"], ["k_proj", "v_proj", "fc2"]),
        "feedforward_modules": (["wo"], ["fc2"]),
    },
    "prompt": {"num_virtual_tokens": 5, "num_transformer_submodules": 1, "task_type": "SEQ_2_SEQ_LM"},
}


def with_adapter(model: Any, kind: str) -> Any:
    """Add one of PEFT's adapters with random values to a model."""
    from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model

    second = not model.config.model_type.endswith("t5")
    chosen = {name: value[second] if isinstance(value, tuple) else value for name, value in PEFT_ADAPTERS[kind].items()}
    if kind == "prompt":
        prepare_for_prompt(model)
    config = {"lora": LoraConfig, "ia3": IA3Config, "prompt": PromptTuningConfig}[kind](**chosen)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in filter(lambda parameter: parameter.requires_grad, adapted.parameters()):
            parameter.normal_(mean=float(kind == "ia3"), std=0.3)
    return adapted.eval()


def prepare_for_prompt(model: Any) -> None:
    """Add what PEFT 0.21 looks up in a model of the task SEQ_2_SEQ_LM, and transformers 5 no longer has."""
    model._prepare_encoder_decoder_kwargs_for_generation = None


def write_adapter(name: str, kind: str) -> None:
    """Write an adapter of a variant in PEFT's own format, and what the variant computes with it."""
    variant, directory = VARIANTS[name], GOLDENS / "peft" / f"{name}_{kind}"
    model = with_adapter(build(variant, seed=0), kind)
    model.save_pretrained(directory)
    (directory / "README.md").unlink()
    versions = {package: version(package) for package in ("torch", "transformers", "peft")}
    results = reference(model, example(seed=0, tokens=variant.tokens))
    results.pop("gradient/final_logits_bias", None)
    named = {peft_name(name): array for name, array in results.items()}
    save_file(named, directory / "expected.safetensors", metadata=versions)


def peft_name(name: str) -> str:
    """Return the name in an adapter's file of a tensor of PEFT's model."""
    return name.replace(".default", "").replace("prompt_encoder.embedding.weight", "prompt_embeddings")


def write_buckets() -> None:
    """Write the buckets of all distances from -2000 to 2000, as int16 named "buckets,max_distance,bidirectional"."""
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-2000, 2001)
    settings = [(32, 128), (32, 200), (8, 12), (64, 1000), (16, 20)]
    tables: dict[str, Any] = {}
    for buckets, max_distance in settings:
        for bidirectional in (True, False):
            bucket = T5Attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
            tables[f"{buckets},{max_distance},{int(bidirectional)}"] = bucket.numpy().astype(np.int16)
    versions = {package: np.array(version(package)) for package in ("torch", "transformers")}
    np.savez_compressed(GOLDENS / "relative_bucket.npz", distance=distance.numpy(), **(tables | versions))


def main(names: list[str]) -> None:
    for name in names or VARIANTS:
        if name.startswith("peft/"):
            write_adapter(*name.removeprefix("peft/").rsplit("_", 1))
        else:
            write_variant(name, VARIANTS[name])
    if not names:
        write_buckets()


if __name__ == "__main__":
    main(sys.argv[1:])
