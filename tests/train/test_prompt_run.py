"""A prompt stands before each source: in packed rows, buckets, generation and scoring, and in a run with its files."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny_run import held_out_losses, supervised

from research import Buckets, Generation, Mesh, Packed, PromptTuning, finetune, load
from research.config import ConfigError
from research.data.pipeline import prepare
from research.decode.loaded_model import LoadedModel
from research.parallel.rules import flatten
from research.pretrained import find
from research.storage import manifest
from research.train.loop import train
from scripts import convert

ADAPTER = PromptTuning(4)
PAIRS = [("one", "un"), ("two", "deux"), ("three", "trois"), ("four", "quatre")]
SOURCES, TARGETS = map(list, zip(*PAIRS, strict=True))


@pytest.fixture(scope="module")
def base(tiny_run, tmp_path_factory) -> LoadedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load(tiny_run)


def test_packed_rows_and_scoring_put_the_prompt_before_each_source(base):
    """The loss of packed rows with two examples each is that of `score` with the same prompt, at a rate of 0."""
    losses = []
    lengths = {"input_length": 18, "target_length": 14}
    still = finetune(
        base, PAIRS * 4, steps=1, learning_rate=0.0, adapter=ADAPTER, **lengths,
        on_step=lambda step, metrics: losses.append(metrics),
    )  # fmt: skip
    nll, tokens = still.score(SOURCES, TARGETS)
    assert losses[0].target_tokens == 4 * tokens.sum()
    np.testing.assert_allclose(losses[0].nll, nll.sum() / tokens.sum(), rtol=1e-5)
    assert np.abs(nll - base.score(SOURCES, TARGETS).nll).max() > 1e-3
    table, rows = (flatten(still.params)[path] for path in ("embedding", "adapter/prompt_embedding"))
    assert all((table == row).all(-1).any() for row in rows)  # the first values
    prompt = [*still.config.prompt]
    assert prompt == [400, 401, 402, 403]
    batch = still.batch(["one"], ["un"])
    assert batch.encoder_input_tokens.tolist() == [[*prompt, *base.batch(["one"], ["un"]).encoder_input_tokens[0]]]
    with pytest.raises(ConfigError, match=r"input_length is 4, but the prompt .* has 4 tokens"):
        finetune(base, PAIRS, steps=1, adapter=ADAPTER, input_length=4)


def test_it_learns_and_leaves_the_base_as_it_was(base):
    losses = []
    settings = dict(steps=30, learning_rate=0.3, on_step=lambda step, metrics: losses.append(float(metrics.nll)))
    tuned = finetune(base, PAIRS, adapter=ADAPTER, **settings)
    assert losses[-1] < 0.95 * losses[0]
    assert all(np.array_equal(leaf, flatten(tuned.params)[path]) for path, leaf in flatten(base.params).items())
    with pytest.raises(ConfigError, match="PromptTuning cannot be merged into weights: write the adapter alone"):
        tuned.save("nowhere")


@pytest.mark.parametrize("batching", [Packed(), Buckets((12, 24))])
def test_long_sources_are_cut_behind_the_prompt(tmp_path, monkeypatch, batching):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    config = supervised(tmp_path, batching)
    prompt = range(400, 404)
    plain, prompted = (prepare(config.data, 0, 8, None, ids) for ids in (range(0), prompt))
    (changed,) = (name for name, value in prompted.fingerprint.items() if plain.fingerprint.get(name) != value)
    assert changed == "model.prompt"
    found = set()
    for batch in prompted.held_out(10**6):
        for ids, segments in zip(batch.encoder_input_tokens, batch.encoder_segment_ids, strict=True):
            for segment in range(1, segments.max() + 1):
                found.add(tuple(ids[segments == segment].tolist()))
    texts = ["ab" * (number % 11 + 1) for number in range(60)]
    expected = {(*prompt, *ids) for ids in plain.tokenizer.source(texts, limit=20)}
    assert found == expected
    assert max(map(len, found)) == 24


@pytest.mark.slow
def test_a_mesh_changes_nothing_but_rounding(base, tiny_run):
    on_mesh = load(tiny_run, mesh=Mesh(data=2, fsdp=2, tensor=2))
    plain, split = (finetune(each, PAIRS, steps=3, learning_rate=1e-2, adapter=ADAPTER) for each in (base, on_mesh))
    np.testing.assert_allclose(split.logits(SOURCES, TARGETS), plain.logits(SOURCES, TARGETS), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_run_resumes_and_goes_to_peft_s_format_and_back(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_run, tmp_path / "base")
    config = supervised(tmp_path, Packed())
    config = replace(
        config,
        init=str(tmp_path / "base"),
        model=replace(config.model, adapter=ADAPTER),
        steps=2,
        evaluation=replace(config.evaluation, generation=Generation(max_length=6), examples=4),
    )
    assert train(config, tmp_path / "whole") == 0
    assert train(replace(config, steps=1), tmp_path / "parts") == 0
    assert train(config, tmp_path / "parts") == 0
    whole, parts = (flatten(find.find(tmp_path / name).params()) for name in ("whole", "parts"))
    assert all(np.array_equal(leaf, parts[path]) for path, leaf in whole.items())
    assert held_out_losses(tmp_path / "whole") == held_out_losses(tmp_path / "parts")
    checkpoint = tmp_path / "whole" / "checkpoints" / "2"
    arrays = json.loads((checkpoint / "state" / "_METADATA").read_text())["tree_metadata"]
    assert [name for name in arrays if "params" in name] == ["('params', 'adapter', 'prompt_embedding')"]
    assert manifest.record(checkpoint)["base"] == find.digest(tmp_path / "base")

    assert convert.main([str(tmp_path / "whole"), str(tmp_path / "adapter")]) == 0
    assert "64 parameters" in capsys.readouterr().out
    run, one = load(tmp_path / "whole"), load(tmp_path / "base", adapter=tmp_path / "adapter")
    other = load(tmp_path / "base").with_adapter(tmp_path / "adapter")
    texts = ["a line of text"], ["another"]
    assert run.score(*texts).nll == one.score(*texts).nll == other.score(*texts).nll
    assert run.score(*texts).nll != load(tmp_path / "base").score(*texts).nll
    assert run.generate(texts[0], max_length=8) == one.generate(texts[0], max_length=8)
    assert jax.tree.all(jax.tree.map(np.array_equal, run.params, one.params))
    assert convert.main([str(tmp_path / "whole"), str(tmp_path / "merged"), "--merge", "--no_tokenizer"]) == 2
    assert "PromptTuning cannot be merged into weights" in capsys.readouterr().err
