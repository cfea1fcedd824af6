"""T5X checkpoints, written as T5X writes them from the goldens' weights, give the goldens' logits."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from research import Model, Relative, Tied, UntiedHead
from research.config import ConfigError
from research.model.transformer import bind
from research.pretrained.t5x import read_config, read_params

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
SIZES = dict(vocab_size=61, width=24, heads=3, head_width=5, feed_forward=40, encoder_layers=3, decoder_layers=2)


def target(variant: str) -> dict[str, np.ndarray]:
    """The weights of a golden under T5X's names and in its shapes, said here once more and apart from the table."""
    hugging_face = load_file(GOLDENS / variant / "model.safetensors")
    found = {"token_embedder/embedding": hugging_face["shared.weight"]}
    if "lm_head.weight" in hugging_face and variant != "t5":
        found["decoder/logits_dense/kernel"] = hugging_face["lm_head.weight"].T
    for stack, layers in (("encoder", 3), ("decoder", 2)):
        found[f"{stack}/{stack}_norm/scale"] = hugging_face[f"{stack}.final_layer_norm.weight"]
        for layer in range(layers):
            arrays = target_layer(hugging_face, stack, f"{stack}.block.{layer}.layer.")
            found |= {f"{stack}/layers_{layer}/{name}": array for name, array in arrays.items()}
        biases = "SelfAttention.relative_attention_bias.weight"
        if variant == "umt5":
            layered = {layer: hugging_face[f"{stack}.block.{layer}.layer.0.{biases}"] for layer in range(layers)}
            found |= {f"{stack}/layers_{layer}/relpos_bias/rel_embedding": bias.T for layer, bias in layered.items()}
        else:
            found[f"{stack}/relpos_bias/rel_embedding"] = hugging_face[f"{stack}.block.0.layer.0.{biases}"].T
    return found


def target_layer(hugging_face: dict[str, np.ndarray], stack: str, prefix: str) -> dict[str, np.ndarray]:
    own = "attention" if stack == "encoder" else "self_attention"
    blocks = {own: "0.SelfAttention"}
    norms = [f"pre_{own}_layer_norm", "pre_mlp_layer_norm"]
    if stack == "decoder":
        blocks["encoder_decoder_attention"] = "1.EncDecAttention"
        norms.insert(1, "pre_cross_attention_layer_norm")
    found = {f"{norm}/scale": hugging_face[f"{prefix}{place}.layer_norm.weight"] for place, norm in enumerate(norms)}
    for block, name in blocks.items():
        for part in ("query", "key", "value", "out"):
            found[f"{block}/{part}/kernel"] = hugging_face[f"{prefix}{name}.{part[0]}.weight"].T
    for part in ("wi", "wi_0", "wi_1", "wo"):
        name = f"{prefix}{len(norms) - 1}.DenseReluDense.{part}.weight"
        if name in hugging_face:
            found[f"mlp/{part}/kernel"] = hugging_face[name].T
    return found


def scanned(arrays: dict[str, np.ndarray], inner: str, four: bool) -> dict[str, np.ndarray]:
    """Layers stacked along axis 1 under `inner`; with `four` the heads have an axis of their own, as in umT5's."""
    stacks: dict[str, dict[int, np.ndarray]] = {}
    found = {}
    for name, array in arrays.items():
        stack, layer, rest = (*name.split("/", 2), "")[:3]
        if not layer.startswith("layers_"):
            found[name] = array
            continue
        if four and rest.endswith(("query/kernel", "key/kernel", "value/kernel")):
            array = array.reshape(24, 3, 5)
        if four and rest.endswith("out/kernel"):
            array = array.reshape(3, 5, 24)
        name = f"{stack}/{inner.format(stack=stack)}/{rest}"
        stacks.setdefault(name, {})[int(layer.removeprefix("layers_"))] = array
    return found | {
        name: np.stack([layers[layer] for layer in sorted(layers)], axis=1) for name, layers in stacks.items()
    }


def write(directory: Path, arrays: dict[str, np.ndarray], version: int = 3, dtype: str = "float32") -> None:
    """As t5x/checkpoints.py: what is partitioned into zarr arrays, the file naming each by its specification."""
    directory.mkdir(exist_ok=True)
    leaves = {}
    for path, array in arrays.items():
        if "scale" in path or "rel_embedding" in path:
            leaves[path] = array.astype(dtype)
            continue
        name = f"target.{path.replace('/', '.')}"
        spec = {
            "driver": "zarr",
            "dtype": dtype,
            "kvstore": {"driver": "file", "path": name},
            "metadata": {"compressor": {"id": "gzip"}, "shape": list(array.shape), "chunks": [12, *array.shape[1:]]},
        }
        absolute = spec | {"kvstore": {"driver": "file", "path": str(directory / name)}}
        store = tensorstore.open(absolute, create=True, open=True).result()
        store.write(array.astype(store.dtype.numpy_dtype)).result()
        leaves[path] = tensorstore.Spec(spec).to_json()
    write_file(directory, leaves, version)


def write_file(directory: Path, leaves, version: int = 3) -> None:
    optimizer = {"state": {"step": np.int32(7), "param_states": {}}, "target": unflatten_dict(leaves, sep="/")}
    (directory / "checkpoint").write_bytes(msgpack_serialize({"version": version, "optimizer": optimizer}))


def logits(path: Path, inputs: dict[str, np.ndarray], **changes: Any) -> np.ndarray:
    model = read_config(path, compute="float32", **changes)

    @jax.jit
    def forward(params):
        module = bind(model, params)
        source, decoder = jnp.asarray(inputs["encoder_mask"]), jnp.asarray(inputs["decoder_mask"])
        encoded = module.encode(jnp.asarray(inputs["encoder_input_tokens"]), source)
        x = module.decode(jnp.asarray(inputs["decoder_input_tokens"]), encoded, decoder, encoder_segment_ids=source)
        return module.logits(x)

    return np.asarray(forward(read_params(path, model)))


def assert_golden(path: Path, variant: str) -> None:
    inputs = load_file(GOLDENS / variant / "expected.safetensors")
    few = variant in ("t5_v1_1", "umt5")
    positions = Relative(8, 12, per_layer=variant == "umt5") if few else Relative()
    ours, theirs = logits(path, inputs, positions=positions), inputs["logits"]
    real = inputs["decoder_mask"] == 1
    assert np.abs(ours - theirs)[real].max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("variant", ["t5", "t5_v1_1", "umt5"])
def test_parity(tmp_path, variant):
    write(tmp_path, target(variant))
    assert_golden(tmp_path, variant)
    assert_golden(tmp_path / "checkpoint", variant)


@pytest.mark.parametrize(("inner", "four"), [("layers", False), ("{stack}", True)])
def test_parity_of_scanned_layers(tmp_path, inner, four):
    write(tmp_path, scanned(target("umt5"), inner, four))
    assert_golden(tmp_path, "umt5")


def test_configurations_read(tmp_path):
    for variant in ("t5", "t5_v1_1", "umt5"):
        write(tmp_path / variant, target(variant))
    assert read_config(tmp_path / "t5") == Model(**SIZES, activation="relu", gated=False, head=Tied(scaled=True))
    few = Model(**SIZES, gated=True, positions=Relative(buckets=8), head=UntiedHead())
    assert read_config(tmp_path / "t5_v1_1") == few
    assert read_config(tmp_path / "umt5").positions == Relative(buckets=8, per_layer=True)
    assert read_config(tmp_path / "t5_v1_1", activation="silu", dropout=0.1).activation == "silu"
    with pytest.raises(ConfigError, match="A model has no field activations"):
        read_config(tmp_path / "t5", activations="silu")


@pytest.fixture
def golden(tmp_path):
    """A checkpoint that a test may damage, and its leaves by name."""
    write(tmp_path, target("t5"))
    content = msgpack_restore((tmp_path / "checkpoint").read_bytes())
    nested = content["optimizer"]["target"]
    return tmp_path, flatten_dict(nested, sep="/", is_leaf=lambda _, node: "kvstore" in node)


KERNEL = "encoder/layers_1/mlp/wo/kernel"


def test_older_specifications_and_orbax_placeholders(golden):
    directory, leaves = golden
    whole = read_params(directory, read_config(directory))
    for name, leaf in leaves.items():
        if isinstance(leaf, dict):
            folder = leaf["kvstore"]["path"]
            bucket = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
            old = {"driver": "zarr", "kvstore": bucket, "path": folder, "metadata": {}}
            leaves[name] = old if "encoder" in name else f"PLACEHOLDER://{folder.rstrip('/')}"
    write_file(directory, leaves)
    assert jax.tree.all(jax.tree.map(np.array_equal, read_params(directory, read_config(directory)), whole))


def test_bfloat16(tmp_path):
    arrays = target("t5")
    write(tmp_path, arrays, dtype="bfloat16")
    params = read_params(tmp_path, read_config(tmp_path))
    assert params["embedding"].dtype == np.float32
    assert np.array_equal(params["embedding"], np.float32(jnp.bfloat16(arrays["token_embedder/embedding"])))


def test_a_missing_chunk_is_not_zeros(golden):
    directory, _ = golden
    model = read_config(directory)
    (directory / f"target.{KERNEL.replace('/', '.')}" / "1.0").unlink()
    with pytest.raises(ConfigError, match=f"the array of {KERNEL} is incomplete"):
        read_params(directory, model)


def test_what_does_not_fit_is_reported_at_once(golden):
    directory, leaves = golden
    model = read_config(directory)
    leaves["encoder/layers_7/mlp/wo/kernel"] = np.ones((40, 24), np.float32)
    leaves["classifier/kernel"] = np.ones(3, np.float32)
    leaves["encoder/encoder_norm/scale"] = np.ones(23, np.float32)
    leaves["decoder/decoder_norm/scale"] = np.ones(24, np.uint16)  # bfloat16 of version 2
    del leaves[KERNEL]
    write_file(directory, leaves)
    with pytest.raises(ConfigError) as error:
        read_params(directory, model)
    for part in (
        "layers_7/mlp/wo/kernel is for encoder/layers/feed_forward/down/weight of layer 7, which the model does not",
        "classifier/kernel matches 0 rows",
        "encoder/encoder_norm/scale has shape (23,), which does not fit",
        "decoder/decoder_norm/scale is of type uint16",
        "nothing fills encoder/layers/feed_forward/down/weight of layer 1",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("folder", ["../target.x", "/etc", "..", "a/b", "a\\b", ""])
@pytest.mark.parametrize("form", ["spec", "placeholder"])
def test_a_checkpoint_may_not_lead_elsewhere(golden, folder, form):
    directory, leaves = golden
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": folder}}
    write_file(directory, leaves | {KERNEL: spec if form == "spec" else f"PLACEHOLDER://{folder}"})
    with pytest.raises(ConfigError, match="not the plain name of a directory beside it"):
        read_config(directory)


def test_files_refused(golden):
    directory, leaves = golden
    path = directory / "checkpoint"
    with pytest.raises(ConfigError, match="is missing"):
        read_config(directory / "absent")
    for damaged in (path.read_bytes()[:-9], b"model_checkpoint_path: 'x'", b""):
        (directory / "damaged").write_bytes(damaged)
        with pytest.raises(ConfigError, match="not flax's msgpack"):
            read_config(directory / "damaged")
    write_file(directory, leaves, version=4)
    with pytest.raises(ConfigError, match="has version 4; only 2, 3 can be read"):
        read_config(directory)
    path.write_bytes(msgpack_serialize({"params": {}}))
    with pytest.raises(ConfigError, match="has no optimizer/target"):
        read_config(directory)
    for leaf, message in (({"kvstore": {"path": "gone"}}, "gone of .* cannot be opened"), (3, "neither an array nor")):
        write_file(directory, leaves | {KERNEL: leaf})
        with pytest.raises(ConfigError, match=message):
            read_config(directory)
    write_file(directory, {"encoder/encoder_norm/scale": leaves["encoder/encoder_norm/scale"]})
    with pytest.raises(ConfigError, match="has no token_embedder/embedding"):
        read_config(directory)
