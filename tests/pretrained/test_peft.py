"""Adapters are PEFT's: equal logits, losses and gradients in float32, and directories that each reads of the other."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from parity import GOLDENS, GRADIENT_TOLERANCE, TOLERANCE, assert_close, assert_outputs, compute, forward, read
from safetensors.numpy import load_file, save_file

from research import PromptTuning
from research.config import ConfigError
from research.model.transformer import without_adapter
from research.parallel.rules import flatten, unflatten
from research.pretrained import peft

ADAPTERS = sorted(path.name for path in (GOLDENS / "peft").iterdir())  # VARIANT_KIND
FAST = ("t5_lora", "bart_ia3", "t5_prompt", "mbart_prompt")


def adapted(directory, base):
    """Read a model with the adapter of a directory; return it, its parameters, and what the adapter's are."""
    model, params = read(base)
    stored = peft.find(directory, model)
    model = replace(model, adapter=stored.adapter)
    own = flatten(peft.read_params(stored, model))
    return model, unflatten(flatten(params) | own), own


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ADAPTERS]
)
def test_logits_losses_and_gradients_are_peft_s(name):
    directory, base = GOLDENS / "peft" / name, GOLDENS / name.rpartition("_")[0]
    inputs, expected = (load_file(each / "expected.safetensors") for each in (base, directory))
    assert_parity(*adapted(directory, base), inputs, expected)


def assert_parity(model, params, own, inputs, expected):
    inputs = with_prompt(model, inputs)
    encoded, logits, loss, gradients = compute(model, params, inputs, segments=True)
    assert_outputs((encoded, logits), inputs | expected)
    assert_close(loss, expected["loss"], TOLERANCE, "loss")
    theirs = {name.removeprefix("gradient/"): array for name, array in expected.items() if name.startswith("gradient/")}
    rows, ours = peft.table(model, own), flatten(gradients)
    read = flatten(peft.fill_params(theirs, rows, model, "the gradients", fresh=(peft.OTHERS,)))
    assert read.keys() == own.keys()
    for path, gradient in read.items():
        assert_close(ours[path], gradient, GRADIENT_TOLERANCE, f"gradient of {path}")
    plain, merged = without_adapter(model, params)
    if isinstance(model.adapter, PromptTuning):
        assert plain == model  # nothing to merge
        return
    assert plain.adapter is None
    outputs = jax.jit(lambda params: forward(plain, params, inputs, segments=True))(merged)
    assert_outputs(outputs, inputs | expected)


def with_prompt(model, inputs):
    """Put the ids of a prompt before each source."""
    source, mask = (inputs[name] for name in ("encoder_input_tokens", "encoder_mask"))
    prompt = np.broadcast_to(np.array(model.prompt, source.dtype), (len(source), len(model.prompt)))
    whole = {"encoder_input_tokens": (prompt, source), "encoder_mask": (np.ones_like(prompt), mask)}
    return inputs | {name: np.concatenate(parts, 1) for name, parts in whole.items()}


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_read_is_written_again(name, tmp_path):
    directory = GOLDENS / "peft" / name
    model, params, _ = adapted(directory, GOLDENS / name.rpartition("_")[0])
    peft.write(tmp_path / "written", model, params, "the base", "digest")
    before, after = (load_file(each / peft.WEIGHTS) for each in (directory, tmp_path / "written"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    old, new = (json.loads((each / peft.CONFIG).read_text()) for each in (directory, tmp_path / "written"))
    for field in new.keys() & old.keys() - {"base_model_name_or_path"}:
        assert (sorted(old[field]) if isinstance(old[field], list) else old[field]) == new[field], field
    assert peft.find(tmp_path / "written", model) == (tmp_path / "written", model.adapter, "digest")


def test_a_prompt_s_file_must_fit_the_base(tmp_path):
    """PEFT's default has rows for the decoder too, which it does not use either."""
    golden, (model, _) = GOLDENS / "peft" / "t5_prompt", read(GOLDENS / "t5")
    config, own = json.loads((golden / peft.CONFIG).read_text()), load_file(golden / peft.WEIGHTS)[peft.PROMPT_TENSOR]

    def find(rows, model=model, **changes):
        (tmp_path / peft.CONFIG).write_text(json.dumps(config | changes))
        save_file({peft.PROMPT_TENSOR: rows}, tmp_path / peft.WEIGHTS)
        return peft.find(tmp_path, model)

    both = find(np.concatenate([own, -own]), num_transformer_submodules=2)
    params = flatten(peft.read_params(both, replace(model, adapter=both.adapter)))
    assert both.adapter == PromptTuning(5)
    assert np.array_equal(params["adapter/prompt_embedding"], own)
    message = r"has \{'prompt_embeddings': \(5, 24\)\}, but this base and adapter_config.json make it .*"
    with pytest.raises(ConfigError, match=message + r"\(6, 24\)"):
        find(own, num_virtual_tokens=6)
    with pytest.raises(ConfigError, match=message + r"\(5, 32\)"):
        find(own, replace(model, width=32))
    with pytest.raises(ConfigError, match=r"num_virtual_tokens is None"):
        find(own, num_virtual_tokens=None)
    with pytest.raises(ConfigError, match=r"PEFT does not scale Marian's embeddings after a prompt"):
        find(own, read(GOLDENS / "marian")[0])


@pytest.mark.live
@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_loads_what_is_written(name, tmp_path):
    torch, loader = pytest.importorskip("torch"), pytest.importorskip("peft")
    from scripts.make_goldens import VARIANTS, build, peft_name, prepare_for_prompt, reference

    variant = name.rpartition("_")[0]
    model, params, own = adapted(GOLDENS / "peft" / name, GOLDENS / variant)
    for path, leaf in own.items():  # other values than the golden's
        own[path] = np.roll(leaf, 1, axis=-1)
    params = unflatten(flatten(params) | own)
    peft.write(tmp_path / "adapter", model, params)
    base = build(VARIANTS[variant], seed=0)
    inputs = load_file(GOLDENS / variant / "expected.safetensors")
    inputs = {each: array for each, array in inputs.items() if each.startswith(("encoder_", "decoder_"))}
    prompt = isinstance(model.adapter, PromptTuning)
    if prompt:
        prepare_for_prompt(base)
    theirs = loader.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=not prompt).eval()
    if prompt:
        theirs.prompt_encoder.requires_grad_(True)
    trained = sum(each.numel() for each in theirs.parameters() if each.requires_grad)
    assert trained == sum(leaf.size for leaf in own.values())
    assert isinstance(theirs, torch.nn.Module)
    expected = {peft_name(each): array for each, array in reference(theirs, inputs).items()}
    expected.pop("gradient/final_logits_bias", None)
    assert_parity(model, params, own, inputs, expected)
