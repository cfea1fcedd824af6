"""A run with an adapter: small checkpoints, a resume to the bit, and a base that must stay what it was."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_run as tiny
from tiny_run import held_out_losses

from research import LoRA, finetune, load
from research.config import ConfigError
from research.parallel.rules import flatten
from research.pretrained import find, peft
from research.storage import manifest
from research.train.loop import train
from scripts import convert, evaluate

pytestmark = pytest.mark.slow

ADAPTER = LoRA(rank=2, targets=("weight",))


def adapted(folder: Path, base: Path, **changes):
    experiment = tiny.experiment(folder, init=str(base))
    return replace(experiment, model=replace(experiment.model, adapter=ADAPTER), **changes)


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    """A folder with a copy of the base, a run of two steps at once, and a run that stopped after one and went on."""
    folder = tmp_path_factory.mktemp("adapted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(folder / "cache"))
        shutil.copytree(tiny_run, folder / "base")
        assert train(adapted(folder, folder / "base"), folder / "whole") == 0
        assert train(adapted(folder, folder / "base", steps=1), folder / "resumed") == 0
        assert train(adapted(folder, folder / "base"), folder / "resumed") == 0
        yield folder


def test_a_run_resumes_to_the_bit(folder):
    whole, resumed = (flatten(find.find(folder / name).params()) for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(leaf, resumed[path]) for path, leaf in whole.items())
    assert any(leaf.any() for path, leaf in whole.items() if path.endswith("adapter/b"))
    base = flatten(find.find(folder / "base").params())
    assert all(np.array_equal(leaf, whole[path]) for path, leaf in base.items())
    assert held_out_losses(folder / "whole") == held_out_losses(folder / "resumed")


def test_a_checkpoint_holds_what_is_trained_and_the_hash_of_the_base(folder):
    def stored(name):
        checkpoint = folder / name / "checkpoints" / "2"
        arrays = json.loads((checkpoint / "state" / "_METADATA").read_text())["tree_metadata"]
        return [name for name in arrays if "params" in name], manifest.record(checkpoint)

    names, record = stored("whole")
    assert names
    assert all("'adapter'" in name for name in names)
    assert record["base"] == find.digest(folder / "base")
    assert "base" not in stored("base")[1]


def test_an_adapter_goes_to_peft_s_format_and_back(folder, tmp_path, capsys):
    assert convert.main([str(folder / "whole"), str(tmp_path / "adapter")]) == 0
    assert "of the base" in capsys.readouterr().out
    texts, run, base = (["a line of text"], ["another"]), load(folder / "whole"), load(folder / "base")
    one, other = load(folder / "base", adapter=tmp_path / "adapter"), base.with_adapter(tmp_path / "adapter")
    expected = run.score(*texts).nll
    assert one.score(*texts).nll == other.score(*texts).nll == expected != base.score(*texts).nll
    assert run.generate(texts[0], max_length=8) == other.generate(texts[0], max_length=8)
    arguments = [str(folder / "whole"), str(tmp_path / "merged"), "--merge", "--no_tokenizer"]
    assert convert.main(arguments) == 0
    merged = find.find(tmp_path / "merged")
    assert merged.model.adapter is None
    assert flatten(merged.params()).keys() == flatten(find.find(folder / "base").params()).keys()
    # An adapter of another base is known by its hash, or by its shapes.
    shutil.copytree(folder / "base", tmp_path / "other")
    change(tmp_path / "other")
    with pytest.raises(ConfigError, match="holds an adapter of another base than"):
        load(tmp_path / "other", adapter=tmp_path / "adapter")
    wider = replace(base.config, width=32)
    stored = peft.find(tmp_path / "adapter", wider)
    with pytest.raises(ConfigError, match="which does not fit"):
        peft.read_params(stored, replace(wider, adapter=stored.adapter))


def test_a_run_on_a_base_in_int8_resumes_to_the_bit_and_is_evaluated_as_it_was_trained(folder, tmp_path):
    def experiment(**changes):
        made = adapted(folder, folder / "base", **changes)
        return replace(made, model=replace(made.model, adapter=replace(ADAPTER, frozen="int8")))

    assert train(experiment(), tmp_path / "whole") == 0
    assert train(experiment(steps=1), tmp_path / "resumed") == 0
    assert train(experiment(), tmp_path / "resumed") == 0
    whole, resumed = (load(tmp_path / name) for name in ("whole", "resumed"))
    kept = flatten(whole.params)
    assert all(np.array_equal(leaf, kept[path]) for path, leaf in flatten(resumed.params).items())
    assert kept["encoder/layers/feed_forward/up/weight/int8"].dtype == "int8"
    assert held_out_losses(tmp_path / "whole") == held_out_losses(tmp_path / "resumed")
    assert held_out_losses(tmp_path / "whole") != held_out_losses(folder / "whole")
    # The same parameters give the losses that the run wrote.
    assert evaluate.main([str(tmp_path / "whole"), "--output", str(tmp_path / "scores")]) == 0
    assert f'"loss": {held_out_losses(tmp_path / "whole")[-1]}' in (tmp_path / "scores" / "scores.json").read_text()
    texts = ["a line of text"], ["another"]
    copied = whole.with_params(whole.params)
    assert copied.score(*texts).nll == whole.score(*texts).nll
    assert copied.generate(texts[0], max_length=4) == whole.generate(texts[0], max_length=4)
    # The adapter is merged into the base as it was, in float32.
    assert convert.main([str(tmp_path / "whole"), str(tmp_path / "merged"), "--merge", "--no_tokenizer"]) == 0
    base, merged = (flatten(find.find(path).params()) for path in (folder / "base", tmp_path / "merged"))
    assert np.array_equal(base["embedding"], merged["embedding"])
    with pytest.raises(ConfigError, match="frozen"):
        train(replace(experiment(steps=3), model=adapted(folder, folder / "base").model), tmp_path / "whole")


def change(base: Path) -> None:
    for checkpoint in (base / "checkpoints").iterdir():
        path = checkpoint / "meta" / "metadata"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"next_row": 77}))
        manifest.write(checkpoint, sealed=True)


def test_a_base_that_changed_or_is_gone_is_refused(folder, tmp_path):
    for name in ("base", "whole"):
        shutil.copytree(folder / name, tmp_path / name)
    experiment = adapted(folder, tmp_path / "base")
    tiny.rewrite(tmp_path / "whole", experiment)
    assert find.find(tmp_path / "whole").params()
    change(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"base has changed since .* was trained on it"):
        find.find(tmp_path / "whole").params()
    with pytest.raises(ConfigError, match=r"base has changed since .* was trained on it"):
        train(replace(experiment, steps=3), tmp_path / "whole")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"base, with the weights that the adapter was trained on, does not exist"):
        find.find(tmp_path / "whole").params()


def test_a_run_that_cannot_begin_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="adapter needs init"):
        train(replace(adapted(folder, folder / "base"), init=None), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"init_fresh matches embedding, which model\.adapter does not train"):
        train(replace(adapted(folder, folder / "base"), init_fresh=("embedding",)), tmp_path / "run")


def test_finetuning_in_python_takes_an_adapter(folder):
    base, pairs = load(folder / "base"), [("one", "un"), ("two", "deux")]
    tuned = finetune(base, pairs, steps=3, learning_rate=1e-1, adapter=ADAPTER)
    before, after = flatten(base.params), flatten(tuned.params)
    assert all(np.array_equal(leaf, after[path]) for path, leaf in before.items())
    assert any(leaf.any() for path, leaf in after.items() if path.endswith("adapter/b"))
    assert tuned.score(["one"], ["un"]).nll < base.score(["one"], ["un"]).nll
    with pytest.raises(ConfigError, match="has an adapter already"):
        finetune(tuned, pairs, steps=1, adapter=ADAPTER)
