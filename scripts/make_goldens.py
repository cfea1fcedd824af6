"""What Hugging Face's PyTorch T5 computes, for tiny random models: python -m scripts.make_goldens

Writes tests/goldens/: a directory a variant, as `save_pretrained` would lay it out (config.json, model.safetensors),
with expected.safetensors beside them (inputs, encoder output, logits, loss and the loss's gradients, named as the
weights), and relative_bucket.npz. Needs torch and transformers; run it again only to add a variant.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"

# heads * d_kv is not d_model, nor any two sizes equal, so that no wrong axis fits.
SIZES = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
}
BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}


class Variant(NamedTuple):
    """A configuration as published checkpoints have it, and whether the head is a matrix of its own."""

    config: Any  # transformers' classes
    model: Any
    fields: dict[str, Any]
    separate_head: bool


VARIANTS = {
    "t5": Variant(T5Config, T5ForConditionalGeneration, {}, separate_head=False),
    "t5_v1_1": Variant(
        T5Config,
        T5ForConditionalGeneration,
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **BUCKETS},
        separate_head=True,
    ),
    "mt5": Variant(MT5Config, MT5ForConditionalGeneration, {"tie_word_embeddings": False}, separate_head=True),
    "umt5": Variant(
        UMT5Config, UMT5ForConditionalGeneration, {"tie_word_embeddings": False, **BUCKETS}, separate_head=True
    ),
}


def build(variant: Variant, seed: int) -> torch.nn.Module:
    """A model whose every parameter differs from its neighbours, norm scales and biases large enough to matter."""
    torch.manual_seed(seed)
    config = variant.config(**SIZES, **variant.fields, dropout_rate=0.1, attn_implementation="eager")
    model = variant.model(config)
    if variant.separate_head:
        # transformers 5 ties the head whatever the configuration says; published v1.1 weights are not tied.
        model.lm_head = torch.nn.Linear(config.d_model, config.vocab_size, bias=False)
        config.tie_word_embeddings = False
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            if "relative_attention_bias" in name:
                parameter.normal_()
    return model.eval()


def example(seed: int, rows: int = 3, source: int = 26, target: int = 17, padded: bool = True) -> dict[str, np.ndarray]:
    """Random tokens; where padded, every row but the first ends in padding, on both sides."""
    generator = np.random.default_rng(seed)
    lengths = {"source": np.full(rows, source), "target": np.full(rows, target)}
    if padded:
        lengths = {side: np.append(length[0], generator.integers(4, length[1:])) for side, length in lengths.items()}
    masks = {side: (np.arange(length.max()) < length[:, None]).astype(np.int64) for side, length in lengths.items()}
    tokens = generator.integers(2, SIZES["vocab_size"], (rows, source)) * masks["source"]
    targets = generator.integers(2, SIZES["vocab_size"], (rows, target)) * masks["target"]
    inputs = np.concatenate([np.zeros((rows, 1), np.int64), targets[:, :-1]], axis=1) * masks["target"]
    return {
        "encoder_input_tokens": tokens,
        "encoder_mask": masks["source"],
        "decoder_input_tokens": inputs,
        "decoder_mask": masks["target"],
        "decoder_target_tokens": targets,
    }


def reference(model: torch.nn.Module, inputs: dict[str, np.ndarray], padded: bool = True) -> dict[str, np.ndarray]:
    """Encoder output, logits, mean loss over real targets, and its gradients as "gradient/" and the weight's name."""
    batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
    masks = {"attention_mask": batch["encoder_mask"], "decoder_attention_mask": batch["decoder_mask"]} if padded else {}
    labels = batch["decoder_target_tokens"].masked_fill(batch["decoder_mask"] == 0, -100)
    model.zero_grad()
    outputs = model(
        input_ids=batch["encoder_input_tokens"],
        decoder_input_ids=batch["decoder_input_tokens"],
        labels=labels,
        use_cache=False,
        **masks,
    )
    outputs.loss.backward()
    results = {"encoded": outputs.encoder_last_hidden_state, "logits": outputs.logits, "loss": outputs.loss}
    results |= {f"gradient/{name}": parameter.grad for name, parameter in model.named_parameters()}
    return {name: np.ascontiguousarray(tensor.detach().numpy()) for name, tensor in results.items()}


def weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


def write_variant(name: str, variant: Variant) -> None:
    directory = GOLDENS / name
    directory.mkdir(parents=True, exist_ok=True)
    model = build(variant, seed=0)
    inputs = example(seed=0)
    config = {"model_type": variant.config.model_type, **SIZES, **variant.fields, "dropout_rate": 0.1}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights(model), directory / "model.safetensors")
    versions = {package: version(package) for package in ("torch", "transformers")}
    save_file(inputs | reference(model, inputs), directory / "expected.safetensors", metadata=versions)


def write_buckets() -> None:
    """Buckets of every distance to 2000 either way, as int16 under "buckets,max_distance,bidirectional"."""
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-2000, 2001)
    settings = [(32, 128), (32, 200), (8, 12), (64, 1000), (16, 20)]
    tables: dict[str, Any] = {}
    for buckets, max_distance in settings:
        for bidirectional in (True, False):
            found = T5Attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
            tables[f"{buckets},{max_distance},{int(bidirectional)}"] = found.numpy().astype(np.int16)
    versions = {package: np.array(version(package)) for package in ("torch", "transformers")}
    np.savez_compressed(GOLDENS / "relative_bucket.npz", distance=distance.numpy(), **(tables | versions))


def main() -> None:
    for name, variant in VARIANTS.items():
        write_variant(name, variant)
    write_buckets()


if __name__ == "__main__":
    main()
