"""A new kind of attention: QK norm with a learned scale for each head (arXiv:2010.04245, 2302.05442).

Command: python -m scripts.train experiments/extend/own_attention.py --run_dir runs/qk_norm
Hardware, time: 2 CPU cores, half a minute, most of it compiling.
Result: not run yet, as it is an example; tests/extend/test_own_attention.py trains a few steps of it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from research import TFDS, AdamW, Bytes, Checkpoint, Constant, Denoising, Evaluation, Experiment, Model, Report
from research.model.attention import SelfAttention
from research.model.layer import Keys
from research.model.transformer import DecoderLayer, EncoderDecoder, EncoderLayer


class QKNormAttention(SelfAttention):
    """Self-attention with queries and keys of root mean square 1. Each head has a learned scale."""

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config, keys)
        self.query_scale = nnx.Param(jnp.ones(config.heads))

    def queries(self, x: jax.Array) -> jax.Array:
        return normalised(super().queries(x)) * self.query_scale[...].astype(x.dtype)[:, None]

    def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        key, value = super().project(x)
        return normalised(key), value


def normalised(x: jax.Array) -> jax.Array:
    """Divide by the root mean square over the last axis, computed in float32."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)


class QKNormEncoderLayer(EncoderLayer):
    self_attention_class = QKNormAttention


class QKNormDecoderLayer(DecoderLayer):
    self_attention_class = QKNormAttention


class QKNormNetwork(EncoderDecoder):
    encoder_layer = QKNormEncoderLayer
    decoder_layer = QKNormDecoderLayer


@dataclass(frozen=True)
class QKNorm(Model):
    """A model with QK norm in the self-attention of both stacks."""

    def build(self, key: jax.Array) -> QKNormNetwork:
        return QKNormNetwork(self, key)

    @property
    def parameters(self) -> tuple[tuple[str, str, str], ...]:
        """The row of `query_scale`: its axes are layers and heads, and no product sums over them."""
        return ((r"(en|de)coder/layers/self_attention/query_scale", "lh", ""),)


def get_config() -> Experiment:
    return Experiment(
        model=QKNorm(400, 64, 2, 32, 128, 1, 1, scaled_scores=True, compute="float32"),
        data=Denoising((TFDS("python_docs"),), Bytes(), input_length=64),
        optimizer=AdamW(schedule=Constant(peak=3e-3, warmup=10)),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=64),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    )
